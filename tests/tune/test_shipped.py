"""The table of tactics that comes with jitrt: what finds a problem in it, what does not, and its file."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import planted
import pytest

from jitrt.codegen.target import TARGETS, target_of
from jitrt.compiler import optimize_graph
from jitrt.errors import CacheError
from jitrt.explanation import Explanation
from jitrt.graph import Graph, Layout, TensorType, f16, f32
from jitrt.graph.dtype import DType
from jitrt.graph.graph import Value
from jitrt.graph.op import Op
from jitrt.graph.ops import Add, Conv, Relu, Sigmoid
from jitrt.graph.rebuild import rebuild
from jitrt.kernels.base import Problem, Tactic, templates
from jitrt.planner import Optimized, Options, problems_of
from jitrt.tune.candidates import candidates_of
from jitrt.tune.shipped import Advice, Entry, Table, key_of, likeness, read_table, shipped, write_table

_RELU = Relu()
H200 = dataclasses.replace(TARGETS[90], name="NVIDIA H200")
PATH = Path(planted.__file__).parents[2] / "jitrt" / "tune" / "tables" / "sm_90.json"


def network(
    names: tuple[str, str, str] = ("x", "y", "z"),
    dtype: DType = f16,
    channels: int = 64,
    activation: Op = _RELU,
    residual: bool = False,
    bias: bool = True,
) -> Optimized:
    """Three convolutions, 3x3 on 56 x 56, of which the second is the second of ResNet-50, at batch 1."""
    graph, random = Graph("network"), np.random.default_rng(0)

    def conv(value: Value, filters: int) -> Value:
        weights = random.standard_normal((filters, value.type.shape[1], 3, 3)).astype(dtype.numpy)
        return graph.add(Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1, False), value, graph.add_constant(weights))

    start = graph.add(Relu(), conv(graph.add_input(names[0], TensorType(dtype, (1, channels, 56, 56))), channels))
    middle = conv(start, 64)
    if bias:
        middle = graph.add(Add(), middle, graph.add_constant(random.standard_normal((64, 1, 1)).astype(dtype.numpy)))
    if residual:
        middle = graph.add(Add(), middle, start)
    graph.mark_output(graph.add(Relu(), conv(graph.add(activation, middle, name=names[1]), 64), name=names[2]))
    return optimize_graph(graph, Options("fp16"))


@cache
def problem_of(**options: object) -> Problem:
    """The problem of the second convolution."""
    return [p for p in problems_of(network(**options).graph) if p.anchors][1]  # type: ignore[arg-type]


def table_of(problem: Problem, *tactics: Tactic, searched: tuple[str, ...] = ("conv2d",)) -> Table:
    timed = tuple((tactic, 1.0) for tactic in tactics)
    return Table(90, H200.name, "", (Entry(key_of(problem), likeness(problem), "a layer", searched, timed),))


# -- finding -----------------------------------------------------------------------------------------------------------


def test_names_do_not_matter() -> None:
    assert key_of(problem_of(names=("image", "middle", "answer"))) == key_of(problem_of())


ALIKE = {"activation": {"activation": Sigmoid()}, "dtype at the ends": {"dtype": f32}}
UNLIKE = {"channels": {"channels": 32}, "residual": {"residual": True}}


@pytest.mark.parametrize("options", ALIKE.values(), ids=ALIKE)
def test_problems_of_one_likeness_share_tactics(options: dict[str, object]) -> None:
    itself, other = problem_of(), problem_of(**options)
    assert key_of(itself) != key_of(other)
    tactic = Tactic("conv2d", ())
    assert table_of(itself, tactic).advice(other, H200) == Advice((tactic,), frozenset({"conv2d"}))


@pytest.mark.parametrize("options", UNLIKE.values(), ids=UNLIKE)
def test_what_decides_the_time_is_missed(options: dict[str, object]) -> None:
    assert table_of(problem_of(), Tactic("conv2d", ())).advice(problem_of(**options), H200) == Advice()


def test_what_won_with_a_bias_is_a_first_guess_without_one() -> None:
    biased, plain, tactic = problem_of(), problem_of(bias=False), Tactic("conv2d", ())
    assert likeness(biased) != likeness(plain)
    assert likeness(biased) == likeness(biased, biased=True) == likeness(plain, biased=True)
    assert table_of(biased, tactic).advice(plain, H200) == Advice((tactic,), frozenset())
    assert table_of(plain, tactic).advice(biased, H200) == Advice()
    own = Entry(key_of(plain), likeness(plain), "", (), ((Tactic("conv2d", (("n", 1),)), 1.0),))
    both = Table(90, H200.name, "", (*table_of(biased, tactic).entries, own))
    assert both.advice(plain, H200).tactics == own.tactics[0][:1]


def test_slices_are_alike_unless_they_spoil_the_loads() -> None:
    def linear(pitch: int, alignment: int = 16) -> Problem:
        plain = planted.linear_problem(64, 64, 64)
        strided = rebuild(
            plain.body, type=lambda v: v.type.with_layout(Layout((pitch, 1))) if v.name == "x" else v.type
        )
        return Problem(strided, plain.weights, (alignment, 16, 16))

    assert likeness(linear(128)) == likeness(linear(64))
    assert likeness(linear(65)) != likeness(linear(64))
    assert likeness(linear(64, alignment=2)) != likeness(linear(64))


def test_a_problem_without_an_anchor_is_found_by_itself_only() -> None:
    small, other = planted.relu_problem(8), planted.relu_problem(8, 1)
    assert likeness(small) == likeness(other) == ""
    table = table_of(small, Tactic("pointwise", ()))
    assert table.advice(small, H200).tactics
    assert table.advice(other, H200) == Advice()


def test_relatives_take_turns_those_that_were_searched_first() -> None:
    problem = problem_of()
    a, b, c, d = (Tactic("conv2d", (("n", n),)) for n in range(4))
    entries = [
        Entry("1", likeness(problem), "", (), ((a, 1.0), (b, 1.0))),
        Entry("2", likeness(problem), "", ("conv2d",), ((c, 1.0), (a, 1.0), (d, 1.0))),
    ]
    assert Table(90, H200.name, "", tuple(entries)).advice(problem, H200).tactics == (c, a, b)


def test_elsewhere_nothing_counts_as_searched() -> None:
    table = table_of(problem_of(), Tactic("conv2d", ()))
    assert table.advice(problem_of(), TARGETS[90].with_sms(114, "NVIDIA H100 PCIe")) == Advice((Tactic("conv2d", ()),))
    assert table.advice(problem_of(), target_of(80)) == Advice()


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_shipped_table_knows_resnet50() -> None:
    """Fails if the text of problems changes: make the table again (`python -m jitrt.tune.table`)."""
    advice = shipped(90).advice(problem_of(), H200)
    assert advice.searched
    first = candidates_of(problem_of(), H200, templates(), 1)[0]
    assert first.tactic == next(tactic for tactic in advice.tactics if tactic.template in templates())


def test_explain_says_how_many_tactics_are_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    told = " of the kernels have their first tactic from the shipped table for sm_90"
    assert told in Explanation.of(network()).count()
    monkeypatch.setenv("JITRT_TABLE", "0")
    assert "shipped table" not in Explanation.of(network()).count()


def test_there_is_no_table_for_other_architectures() -> None:
    assert shipped(80).entries == ()


def test_the_shipped_file_is_as_it_would_be_written(tmp_path: Path) -> None:
    write_table(read_table(PATH), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_text() == PATH.read_text()
    assert PATH.stat().st_size < 600_000


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 2}', '{"version": 1, "arch": 90, "device": "", "toolchain": "", "problems": [{}]}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(CacheError, match=r"is no table of tactics .*set JITRT_TABLE=0"):
        read_table(tmp_path / "table.json")
