"""Epilogues and prologues: what is written for a body, and what is refused."""

from __future__ import annotations

import pytest

from jitrt.codegen.epilogue import make_epilogue, prologue_nodes, refuse_epilogue
from jitrt.codegen.prologue import make_prologue, refuse_prologue
from jitrt.codegen.tile import TileSpace
from jitrt.errors import GraphError
from jitrt.graph import Graph, Layout, TensorType, b8, f16, f32
from jitrt.graph.graph import Value
from jitrt.graph.ops import Add, Cast, LogicalNot, MaxPool, Mul, ReduceSum, Relu, Sigmoid, Where
from jitrt.graph.types import channels_last
from jitrt.kernels.base import anchor_of
from jitrt.kernels.pointwise import Pointwise
from jitrt.testing import check_problem, make_problem

SHAPE = (2, 6, 4, 4)


def pooled(prologue: bool = False) -> tuple[Graph, Value, Value]:
    """(body, x, pool output): a pool that keeps the shape, after relu(x + shift) if wanted."""
    g = Graph()
    x = value = g.add_input("x", TensorType(f16, SHAPE, Layout(channels_last(SHAPE))))
    if prologue:
        value = g.add(Relu(), g.add(Add(), x, g.add_input("shift", TensorType(f16, (6, 1, 1)))))
    return g, x, g.add(MaxPool((3, 3), (1, 1), (1, 1)), value)


def test_operands_come_in_the_order_they_are_loaded() -> None:
    g, _, pool = pooled()
    scale, residual = g.add_input("scale", TensorType(f16, (6, 1, 1))), g.add_input("r", TensorType(f16, SHAPE))
    g.mark_output(g.add(Add(), g.add(Mul(), pool, scale), residual))
    epilogue = make_epilogue(g, pool, TileSpace.of(pool.type.with_layout(Layout(channels_last(SHAPE)))))
    assert epilogue.operands == (1, 2)
    assert "tl.load(aux[0] + (k), mask=k_mask, other=0)" in epilogue.apply_source
    assert "mask=m_mask & k_mask" in epilogue.apply_source
    assert epilogue.apply.arg_names == ["acc", "aux", "m", "k", "m_mask", "k_mask"]


def test_an_operand_read_twice_is_loaded_once() -> None:
    g, _, pool = pooled()
    scale = g.add_input("scale", TensorType(f16, (6, 1, 1)))
    g.mark_output(g.add(Mul(), g.add(Mul(), pool, scale), scale))
    epilogue = make_epilogue(g, pool, TileSpace.of(pool.type))
    assert epilogue.operands == (1,)
    assert epilogue.apply_source.count("tl.load") == 1


def test_an_epilogue_may_use_what_the_anchor_also_read() -> None:
    """relu(x) + pool(relu(x)): the epilogue computes relu(x) again at its own position."""
    g, _, pool = pooled(prologue=True)
    before = pool.producer.inputs[0]
    g.mark_output(g.add(Add(), pool, before))
    assert refuse_epilogue(g, pool.producer) is None
    assert make_epilogue(g, pool, TileSpace.of(pool.type)).operands == (0, 1)
    assert [n.op.name for n in prologue_nodes(g, pool.producer)] == ["add", "relu"]


def test_a_prologue_is_the_chain_before_an_operand() -> None:
    g, _, pool = pooled(prologue=True)
    g.mark_output(pool)
    before = pool.producer.inputs[0]
    prologue = make_prologue(g, before, TileSpace.of(before.type))
    assert prologue.operands == (0, 1)
    assert prologue.load.arg_names == ["aux", "m", "k", "m_mask", "k_mask"]
    assert refuse_prologue(before) is None


def test_a_prologue_addresses_operands_by_the_types_given() -> None:
    g, x, pool = pooled()
    g.mark_output(pool)
    split = TensorType(f16, (2, 3, 2, 16), Layout((96, 2, 1, 6)))
    prologue = make_prologue(g, x, TileSpace(split.shape, (0, 1), 2), given={x: split})
    assert "(m // 3) * 96 + (m % 3) * 2 + k" in prologue.source


def test_what_is_not_elementwise_is_refused() -> None:
    g, _, pool = pooled()
    second = g.add(MaxPool((3, 3), (1, 1), (1, 1)), pool)
    g.mark_output(second)
    assert refuse_epilogue(g, pool.producer) == "max_pool is not elementwise"
    assert refuse_prologue(second) == "max_pool before it is not elementwise"
    with pytest.raises(GraphError, match="max_pool is not elementwise"):
        make_epilogue(g, None, TileSpace.of(second.type))


def test_an_epilogue_that_broadcasts_its_anchor_is_refused() -> None:
    g = Graph()
    x = g.add_input("x", TensorType(f32, (4, 5)))
    total = g.add(ReduceSum((1,), keepdims=True), x)
    g.mark_output(g.add(Add(), total, x))
    assert refuse_epilogue(g, anchor_of(g)) == "the epilogue changes the shape from [4, 1] to [4, 5]"


def test_two_outputs_are_refused() -> None:
    g, _, pool = pooled()
    g.mark_output(pool, g.add(Relu(), pool))
    assert refuse_epilogue(g, pool.producer) == "a region has one output, this one 2"


@pytest.mark.parametrize("dtype", [f32, f16])
def test_constants_alone_make_a_value(dtype) -> None:
    """A node of scalars only, and a result that no operand reaches."""
    g = Graph()
    one, two = g.scalar(1.0, dtype), g.scalar(2.0, dtype)
    x = g.add_input("x", TensorType(dtype, (3, 5)))
    chosen = g.add(Where(), g.add(Cast(b8), x), g.add(Add(), one, two), g.add(Sigmoid(), two))
    g.mark_output(chosen)
    check_problem(make_problem(g), Pointwise())


def test_a_constant_boolean_is_a_value() -> None:
    """`False` is a literal, although Python would take it for an identifier."""
    g = Graph()
    g.mark_output(g.add(LogicalNot(), g.scalar(False, b8)))
    check_problem(make_problem(g), Pointwise())
