"""Attention in one kernel, against numpy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from jitrt.codegen.target import TARGETS
from jitrt.graph import DType, Graph, TensorType, b8, bf16, f16, f32
from jitrt.graph.ops import Add, Cast, Exp, Matmul, Mul, Relu, Softmax, Where
from jitrt.kernels.attention import AttentionTemplate, describe
from jitrt.kernels.base import Problem, Tactic
from jitrt.testing import check_problem, compiles, make_problem, random_operands
from jitrt.testing.check import disagrees
from jitrt.testing.interpreter import run_interpreted
from tests.kernels import compiled


def attention(
    batch: tuple[int, ...] = (2, 3),
    rows: int = 19,
    keys: int = 21,
    depth: int = 8,
    width: int = 8,
    *,
    dtype: DType = f16,
    joint: bool = False,
    mask: DType | None = None,
    residual: bool = False,
    shared_values: bool = False,
    tf32: bool = False,
) -> Problem:
    """softmax(q @ k.T / sqrt(depth), masked) @ v (+ residual, relu). With `joint` q, k and v lie side by side, heads
    inside, as one projection writes them; `shared_values` gives all heads the same v."""
    body = Graph("region")
    q = body.add_input("q", TensorType(dtype, (*batch, rows, depth)))
    k = body.add_input("k", TensorType(dtype, (*batch, depth, keys)))
    v = body.add_input("v", TensorType(dtype, ((1,) * len(batch) if shared_values else batch) + (keys, width)))
    scores = body.add(Matmul(tf32), q, k)
    scores = body.add(Mul(), scores, body.scalar(1 / math.sqrt(depth), dtype))
    if mask == b8:
        seen = body.add_input("mask", TensorType(b8, (rows, keys)))
        scores = body.add(Where(), seen, scores, body.scalar(-30.0, dtype))
    elif mask is not None:
        scores = body.add(Add(), scores, body.add_input("mask", TensorType(mask, (batch[0], 1, rows, keys))))
    weights = body.add(Softmax(len(batch) + 1), scores)
    if weights.type.dtype != dtype:
        weights = body.add(Cast(dtype), weights)
    value = body.add(Matmul(tf32), weights, v)
    if residual:
        value = body.add(Relu(), body.add(Add(), value, body.add_input("residual", value.type)))
    body.mark_output(value)
    strides = {"k": _transposed(batch, keys, depth)}
    if joint:
        heads = batch[1]
        step = heads * (2 * depth + width)
        strides = {
            "q": (rows * step, depth, step, 1),
            "k": (keys * step, depth, 1, step),
            "v": (keys * step, width, step, 1),
            value.name: (rows * heads * width, width, heads * width, 1),
        }
    return make_problem(body, strides=strides)


def _transposed(batch: tuple[int, ...], keys: int, depth: int) -> tuple[int, ...]:
    lead = [math.prod(batch[d + 1 :]) * keys * depth for d in range(len(batch))]
    return (*lead, 1, depth)


def config(m: int = 16, n: int = 16, warps: int = 2, stages: int = 1) -> dict[str, Any]:
    return {"BLOCK_M": m, "BLOCK_N": n, "num_warps": warps, "num_stages": stages}


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(attention(), config(), id="ragged rows and keys"),
        pytest.param(attention(joint=True), config(32, 32), id="a joint projection, one block"),
        pytest.param(
            attention(depth=5, width=11, dtype=bf16, mask=f32), config(), id="odd heads, a mask that is added"
        ),
        pytest.param(attention(mask=b8, residual=True), config(16, 32), id="a mask of booleans, a residual"),
        pytest.param(attention((3,), 7, 33, dtype=f32), config(), id="float32"),
        pytest.param(attention((2, 2), 1, 40, dtype=f32, tf32=True, shared_values=True), config(), id="one row, tf32"),
        pytest.param(attention((), 17, 16), config(), id="no batch"),
    ],
)
def test_numbers(problem: Problem, config: dict[str, Any]) -> None:
    check_problem(problem, AttentionTemplate(), [config])


def test_scores_of_any_size_and_rows_that_see_nothing() -> None:
    """Scores beyond what float16 holds, in the first block of keys or in a later one; and a row that is masked but for
    the last key."""
    problem = attention((1, 1), 16, 48, mask=f32)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal(x.type.shape).astype(np.float16) for x in problem.body.inputs[:3])
    q[..., 0, :], k[..., 40] = 200, 200
    q[..., 1, :], k[..., 3] = 190, -190
    mask = np.zeros((1, 1, 16, 48), np.float32)
    mask[..., 2, :-1] = -np.inf
    tactic = Tactic.make(AttentionTemplate(), config())
    got = run_interpreted(problem, tactic, [q, k, v, mask], TARGETS[90], template=AttentionTemplate())
    assert np.isfinite(got).all()
    assert disagrees(problem, [q, k, v, mask], got) is None


@pytest.mark.parametrize("machine", ["interpreter", "PTX"])
def test_nan_and_infinity_come_out_where_they_belong(machine: str) -> None:
    """A query that is NaN or infinite, in one block of keys or all, a row that sees nothing, a value that is NaN."""
    problem = attention((1, 1), 16, 48, mask=f32)
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal(x.type.shape).astype(np.float16) for x in problem.body.inputs[:3])
    mask = np.zeros((1, 1, 16, 48), np.float32)
    q[..., 0, 2], q[..., 1, 3] = np.nan, np.inf
    mask[..., 2, :], mask[..., 3, 40], mask[..., 4, 5] = -np.inf, np.nan, np.inf
    v[..., 33, 7] = np.nan
    given, template = [q, k, v, mask], AttentionTemplate()
    if machine == "PTX":
        got = compiled.run(problem, template, config(), given, TARGETS[90])
    else:
        got = run_interpreted(problem, Tactic.make(template, config()), given, TARGETS[90], template=template)
    assert np.isnan(got[0, 0, :5]).all() and np.isnan(got[..., 7]).all()
    assert np.isfinite(got[0, 0, 5:, :7]).all()
    assert disagrees(problem, given, got) is None


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(attention((1, 12), 197, 197, 64, 64, joint=True), config(16, 64, 2, 2), id="ViT-B, batch 1"),
        pytest.param(attention((8, 12), 197, 197, 64, 64, joint=True), config(64, 64, 4, 2), id="ViT-B, batch 8"),
        pytest.param(attention((2, 8), 4096, 4096, 128, 128, dtype=bf16), config(128, 64, 8, 3), id="long"),
    ],
)
def test_compiles_without_spills(problem: Problem, config: dict[str, Any]) -> None:
    compiles(problem, AttentionTemplate(), config)


@pytest.mark.parametrize(
    ("problem", "config"),
    [
        pytest.param(attention((1, 2), 40, 90, 32, 64), config(32, 32, 2, 3), id="three stages"),
        pytest.param(attention((1, 2), 19, 90, 64, 64, joint=True, mask=b8), config(16, 64, 1, 2), id="masked"),
    ],
)
def test_what_was_compiled_is_right_on_the_ptx_machine(problem: Problem, config: dict[str, Any]) -> None:
    arrays = random_operands(problem)
    got = compiled.run(problem, AttentionTemplate(), config, arrays, TARGETS[90])
    assert disagrees(problem, arrays, got) is None


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("dtype", [f16, f32])
@pytest.mark.parametrize("depth", [8, 64, 256])
def test_there_is_a_candidate_or_a_reason(arch: int, dtype: DType, depth: int) -> None:
    problem, target = attention((1, 12), 128, 128, depth, depth, dtype=dtype), TARGETS[arch]
    if (dtype, depth) == (f32, 256):  # products of float32 in full precision are made of registers
        assert "too wide" in (AttentionTemplate().supports(problem, target) or "")
    else:
        assert AttentionTemplate().supports(problem, target) is None
        assert 0 < len(AttentionTemplate().candidates(problem, target)) <= 16


def test_few_heads_are_cut_into_smaller_blocks_of_rows() -> None:
    one, many = (AttentionTemplate().candidates(attention((n, 12), 197, 197, 64, 64), TARGETS[90])[0] for n in (1, 128))
    assert one["BLOCK_M"] < many["BLOCK_M"]


def test_it_refuses() -> None:
    def reason(problem: Problem) -> str:
        return AttentionTemplate().accepts(problem.body) or ""

    assert reason(attention()) == ""
    assert "more than 256 elements" in reason(attention(depth=257))
    wrong = attention((2, 16), 16, 16, 16, 16)
    wrong.body.nodes[2].op = Softmax(2)
    assert "not over the keys" in reason(wrong)
    for index, told in ((1, "must lie in memory"), (3, "stands between")):
        changed = attention().body
        node = changed.nodes[index - 1 if index == 1 else index]
        inner = changed.append(Exp(), [node.inputs[0]], before=node)
        changed.set_input(node, 0, inner.output)
        assert told in (AttentionTemplate().accepts(changed) or "")
    shared = Graph("region")
    q, k, v = (shared.add_input(name, TensorType(f16, (heads, 16, 16))) for name, heads in zip("qkv", (1, 1, 2)))
    shared.mark_output(shared.add(Matmul(), shared.add(Softmax(2), shared.add(Matmul(), q, k)), v))
    assert "the heads of scores and values differ" in (AttentionTemplate().accepts(shared) or "")
    lone = Graph("region")
    lone.mark_output(lone.add(Softmax(1), lone.add_input("x", TensorType(f16, (2, 3)))))
    assert "anchors are no" in (AttentionTemplate().accepts(lone) or "")
    huge = attention((40000, 8), 128, 128, 64, 64)
    assert "32-bit offsets" in (AttentionTemplate().supports(huge, TARGETS[90]) or "")


def test_what_it_counts() -> None:
    shape = describe(attention((2, 3), 19, 21, 5, 40))
    assert (shape.batch, shape.rows, shape.keys, shape.depth, shape.width) == ((2, 3), 19, 21, 5, 40)
    assert shape.blocks == (16, 64)
