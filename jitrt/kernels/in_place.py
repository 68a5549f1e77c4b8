"""Which operands a kernel's result may lie on.

A template that says `in_place` promises, of all operands that it reads through the argument `aux`: each element is read
by the program that then writes the result there, and by no other. The generated epilogue reads an operand of the
result's own shape and strides at the addresses the result is stored to, so it holds for every template that hands `aux`
to its epilogue at the position it stores, and for nothing else: the input of a convolution is read by its neighbours,
the row of a softmax by several programs.

Where a reduction is split, only the program that stores the result runs the epilogue. Where the epilogue's operands are
loaded before the main loop, they are loaded all the same by the program that stores. Triton does not take two pointers
to be different memory, and what a program stores depends on what it loaded there.
"""

from __future__ import annotations

from jitrt.graph.graph import Node
from jitrt.kernels.base import Argument, Descriptor, KernelCall, Lowered, Operand, Problem, Result, Template


def in_place_offers(node: Node, problem: Problem, template: Template, lowered: Lowered) -> dict[str, str | None]:
    """For every operand of a region that is as large as the result, by name: None if the launches of `lowered` may
    write the result over it, or why not. For `passes.plan_memory`."""
    out = problem.output.type
    offers: dict[str, str | None] = {}
    for index, (value, operand) in enumerate(zip(node.inputs, problem.body.inputs, strict=True)):
        if value.is_constant or operand.type.shape != out.shape:
            continue
        if operand.type.dtype.itemsize != out.dtype.itemsize:
            reason: str | None = f"its elements have another size: {operand.type.dtype.value}, not {out.dtype.value}"
        elif operand.type.strides != out.strides:
            reason = "its elements lie in other strides than the result's"
        else:
            reason = _refuse(index, template, lowered)
        offers[value.name] = reason if offers.get(value.name) is None else offers[value.name]
    return offers


def _refuse(index: int, template: Template, lowered: Lowered) -> str | None:
    if not template.in_place:
        return f"several programs of {template.name} may read the same element of it"
    for call in lowered.calls:
        for name, argument in call.arguments.items():
            if _mentions(argument, index) and (name != "aux" or not _stores(call)):
                return f"other programs of {template.name} read it too, as {name}"
    return None


def _mentions(argument: Argument, index: int) -> bool:
    if isinstance(argument, Descriptor):
        argument = argument.base
    return argument == Operand(index) or (isinstance(argument, tuple) and Operand(index) in argument)


def _stores(call: KernelCall) -> bool:
    """Whether this launch writes the result."""
    return any(argument == Result() for argument in call.arguments.values())
