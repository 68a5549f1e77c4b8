"""How a launch overlaps with the one before: what a kernel does before it waits.

A kernel that waits for its predecessor by itself (`KernelCall.dependent`) may be launched as soon as every program of
the predecessor has let it, or has ended. If all programs run at once, they let the successor go as they begin, so that
its first programs are placed, and have computed their addresses, by the time they may go on. These also ask for the
constants that the kernel reads, which are cold after a network's length. An H200, batch 1, fp16, microseconds:

    as it was   let go   and ask
    193         190      181      ResNet-50
    577         568      539      ResNet-152

Programs that wait hold their places. If more of them fitted on an SM than are meant to run there, some of the
successor's would crowd one SM beside an idle one (ResNet-50: 236). So all ask for as much shared memory as leaves room
for no other. What was tried besides: letting go, after the request, just before the wait (549); a program for each SM,
idle or not, so that two kernels always stand side by side (576 to 580); the predecessor asking (540).
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence

from jitrt.codegen.target import Target
from jitrt.kernels.base import Argument, KernelCall, Operand, Problem

_RESERVED = 1024  # bytes of shared memory the driver adds to every block
_REGISTERS = 255  # a thread's at most, of an SM's 65536
_ASKING = 16  # programs that ask for constants
_LEAST, _LIMIT = 4 << 10, 8 << 20  # bytes of a constant worth asking for, and asked for
_WAIT, _LET = "griddepcontrol.wait", "griddepcontrol.launch_dependents"
_PARAMETER = re.compile(r"\.param\s[^,\n]*?(\w+)(?:\[\d+\])?\s*[,\n]")


def together(call: KernelCall, shared: int, target: Target) -> int:
    """How many programs share an SM if all run at once, with `shared` bytes of shared memory each; 0 if some must wait
    for others, if they are too many or clusters, or if the kernel does not wait for its predecessor by itself."""
    if not call.dependent or call.options.get("num_ctas", 1) > 1:
        return 0
    count = -(-call.grid[0] * call.grid[1] * call.grid[2] // target.sms)
    threads = 32 * call.num_warps * count
    fit = count * (shared + _RESERVED) <= target.shared + _RESERVED and threads * _REGISTERS <= 65536
    return count if count == 1 or (count == 2 and fit) else 0


def least_shared(count: int, target: Target) -> int:
    """Bytes of shared memory a block with which no more than `count` fit on an SM."""
    return (target.shared + _RESERVED) // (count + 1)


def constants_of(call: KernelCall, problem: Problem, packed: Container[int]) -> list[tuple[int, int]]:
    """(number of the parameter, bytes) of the constants a kernel gets pointers to; not of those that are `packed`."""
    given = [call.arguments[name] for name in call.function.arg_names if name in call.arguments]
    found = []
    for number, argument in enumerate(_flat(given)):
        if isinstance(argument, Operand) and problem.weights[argument.index] and argument.index not in packed:
            type = problem.body.inputs[argument.index].type
            if problem.alignment[argument.index] == 16:
                found.append((number, type.span * type.dtype.itemsize))
    return found


def _flat(arguments: Iterable[Argument]) -> Iterator[Argument]:
    for argument in arguments:
        yield from argument if isinstance(argument, tuple) else (argument,)


def overlapping(ptx: str, grid: tuple[int, int, int], constants: Sequence[tuple[int, int]]) -> str:
    """PTX of a kernel that asks for `constants` (number of the parameter, bytes) and lets its successor launch before
    it waits; the same text if it does not wait, or has let its successor launch by then."""
    wait = ptx.find(_WAIT)
    if wait < 0 or _LET in ptx[:wait]:
        return ptx
    head = ptx.index(".entry")
    body = ptx.index("{", head) + 1
    names = _PARAMETER.findall(ptx[head:body])
    programs = min(_ASKING, grid[0] * grid[1] * grid[2])
    asked = ""
    for number, size in constants:
        if size >= _LEAST:
            size = min(size, _LIMIT) // 16 * 16
            asked += _ASK.format(parameter=names[number], share=-(-size // programs // 128) * 128, size=size)
    begin, end = (_BEGIN.format(x=grid[0], xy=grid[0] * grid[1]), "\t}\n") if asked else ("", "")
    return f"{ptx[:body]}\n\t{_LET};\n{begin}{asked}{end}{ptx[body:]}"


_BEGIN = """
\t{{ .reg .pred %first, %asks; .reg .b32 %place, %program, %size; .reg .b64 %address;
\tmov.u32 %place, %tid.x; setp.eq.u32 %first, %place, 0; mov.u32 %program, %ctaid.x;
\tmov.u32 %place, %ctaid.y; mad.lo.u32 %program, %place, {x}, %program;
\tmov.u32 %place, %ctaid.z; mad.lo.u32 %program, %place, {xy}, %program;
"""
_ASK = """\tmul.lo.u32 %place, %program, {share}; setp.lt.u32 %asks, %place, {size}; and.pred %asks, %asks, %first;
\tsub.s32 %size, {size}, %place; min.s32 %size, %size, {share};
\tld.param.b64 %address, [{parameter}]; mad.wide.u32 %address, %program, {share}, %address;
\t@%asks cp.async.bulk.prefetch.L2.global [%address], %size;
"""
