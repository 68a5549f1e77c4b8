from __future__ import annotations

import numpy as np
import pytest

from jitrt.errors import OptionError
from jitrt.graph import Graph, TensorType, f16, f32
from jitrt.graph.ops import Add
from jitrt.passes import PassContext
from jitrt.passes.precision import precision

_LINEAR = """
    graph g(%x: f32[2,3]) {
      const %w: f32[2,3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
      %0 = linear(%x, %w) <tf32=False> : f32[2,2]
      %y = relu(%0) : f32[2,2]{1,2}
      return %y
    }"""


@pytest.mark.parametrize(("name", "half"), [("fp16", "f16"), ("bf16", "bf16")])
def test_everything_inside_becomes_16_bit_and_the_borders_stay(rewrites, name, half):
    outcome = rewrites(
        precision,
        _LINEAR,
        f"""
        graph g(%x: f32[2,3]) {{
          const %w: {half}[2,3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
          %c = cast(%x) <dtype='{half}'> : {half}[2,3]
          %0 = linear(%c, %w) <tf32=False> : {half}[2,2]
          %1 = relu(%0) : {half}[2,2]
          %y = cast(%1) <dtype='f32'> : f32[2,2]{{1,2}}
          return %y
        }}""",
        precision=name,
        tolerance=2e-2,
    )
    assert outcome.done == [f"input cast to {half}", "output cast back to f32"]


def test_tf32_is_a_switch_on_the_products(rewrites):
    outcome = rewrites(precision, _LINEAR, _LINEAR.replace("tf32=False", "tf32=True"), precision="tf32")
    assert outcome.done == ["linear in tf32"]


def test_fp32_changes_nothing(rewrites):
    assert not rewrites(precision, _LINEAR, precision="fp32").done


@pytest.mark.parametrize("name", ["fp16", "bf16", "tf32"])
def test_a_graph_already_in_16_bit_is_left(rewrites, name):
    rewrites(
        precision,
        "graph g(%x: f16[2]) {\nconst %c: f16[2] = [1.0, 2.0]\n%y = add(%x, %c) : f16[2]\nreturn %y\n}",
        precision=name,
    )


def test_integers_and_casts_of_the_user(rewrites):
    rewrites(
        precision,
        """
        graph g(%image: u8[2]) {
          const %scale: f32[] = 0.5
          %0 = cast(%image) <dtype='f32'> : f32[2]
          %1 = mul(%0, %scale) : f32[2]
          %y = greater(%1, %scale) : b8[2]
          return %y
        }""",
        """
        graph g(%image: u8[2]) {
          const %scale: f16[] = 0.5
          %0 = cast(%image) <dtype='f16'> : f16[2]
          %1 = mul(%0, %scale) : f16[2]
          %y = greater(%1, %scale) : b8[2]
          return %y
        }""",
        precision="fp16",
    )


def test_inputs_are_cast_below_their_views(rewrites):
    rewrites(
        precision,
        """
        graph g(%x: f32[2,3]) {
          %0 = reshape(%x) <shape=(6,)> : f32[6]
          %1 = slice(%0) <start=(0,), stop=(3,), step=(1,)> : f32[3]
          %y = relu(%1) : f32[3]
          %z = neg(%1) : f32[3]
          return %y, %z, %0, %x
        }""",
        """
        graph g(%x: f32[2,3]) {
          %0 = reshape(%x) <shape=(6,)> : f32[6]
          %1 = slice(%0) <start=(0,), stop=(3,), step=(1,)> : f32[3]
          %c = cast(%1) <dtype='f16'> : f16[3]
          %2 = relu(%c) : f16[3]
          %3 = neg(%c) : f16[3]
          %y = cast(%2) <dtype='f32'> : f32[3]
          %z = cast(%3) <dtype='f32'> : f32[3]
          return %y, %z, %0, %x
        }""",
        precision="fp16",
        tolerance=2e-3,
    )


def test_a_constant_that_is_an_output_keeps_its_dtype(apply):
    graph = apply(
        precision,
        "graph g(%x: f32[2,1]) {\nconst %c: f32[2,2] = [[1.0, 2.0], [3.0, 4.0]]\n"
        "%y = add(%x, %c) : f32[2,2]\nreturn %y, %c\n}",
        precision="fp16",
    ).graph
    assert [v.type.dtype for v in graph.outputs] == [f32, f32]
    assert {v.type.dtype for v in graph.constants.values()} == {f32, f16}


@pytest.mark.parametrize(("name", "number"), [("fp16", 1e5), ("bf16", 3.4e38)])
def test_a_constant_that_does_not_fit_is_an_error_that_names_it(name, number):
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (2, 2)))
    big = graph.add_constant(np.array([[1, number], [2, 3]], np.float32), "layer.bias")
    graph.mark_output(graph.add(Add(), x, big, loc="model.py:3"))
    context = PassContext(name)
    with pytest.raises(OptionError, match=r"%layer\.bias holds .* at model\.py:3.*; use precision="):
        precision(graph, context)
    assert [d.applied for d in context.report] == [False]


def test_a_bias_stays_float32_and_the_chain_after_it_until_its_end(rewrites):
    rewrites(
        precision,
        """
        graph g(%x: f16[2,3], %r: f16[2,2]) {
          const %w: f32[2,3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
          const %b: f32[2] = [0.1, 0.2]
          %x32 = cast(%x) <dtype='f32'> : f32[2,3]
          %r32 = cast(%r) <dtype='f32'> : f32[2,2]
          %0 = linear(%x32, %w) <tf32=False> : f32[2,2]
          %1 = add(%0, %b) : f32[2,2]
          %2 = add(%1, %r32) : f32[2,2]
          %3 = relu(%2) : f32[2,2]
          %y = linear(%3, %w2) <tf32=False> : f32[2,2]
          return %y
        }""".replace("%w2", "%v").replace(
            "const %b", "const %v: f32[2,2] = [[1.0, 2.0], [3.0, 4.0]]\n          const %b"
        ),
        """
        graph g(%x: f16[2,3], %r: f16[2,2]) {
          const %w: f16[2,3] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
          const %v: f16[2,2] = [[1.0, 2.0], [3.0, 4.0]]
          const %b: f32[2] = [0.10000000149011612, 0.20000000298023224]
          %x32 = cast(%x) <dtype='f16'> : f16[2,3]
          %r32 = cast(%r) <dtype='f16'> : f16[2,2]
          %0 = linear(%x32, %w) <tf32=False> : f16[2,2]
          %1 = add(%0, %b) : f32[2,2]
          %2 = add(%1, %r32) : f32[2,2]
          %3 = relu(%2) : f32[2,2]
          %c = cast(%3) <dtype='f16'> : f16[2,2]
          %4 = linear(%c, %v) <tf32=False> : f16[2,2]
          %y = cast(%4) <dtype='f32'> : f32[2,2]
          return %y
        }""",
        precision="fp16",
        tolerance=5e-3,
    )


_BIASED = """
    graph g(%x: f16[2,2]) {{
      const %b: f32[2] = [0.5, 0.25]
      %0 = cast(%x) <dtype='f32'> : f32[2,2]
      %1 = add(%0, %b) : f32[2,2]
      {rest}
    }}"""


def casts_after(apply, rest: str) -> list[str]:
    """What the casts to f16 read, beside the input."""
    graph = apply(precision, _BIASED.format(rest=rest), precision="fp16").graph
    half = [node for node in graph.nodes if node.op.name == "cast" and node.output.type.dtype == f16]
    return [node.inputs[0].producer.op.name for node in half if node.inputs[0].producer]


def test_a_value_with_two_readers_is_cast_at_once(apply):
    rest = "%2 = relu(%1) : f32[2,2]\n%3 = neg(%1) : f32[2,2]\n%y = concat(%2, %3) <axis=0> : f32[4,2]\nreturn %y"
    assert casts_after(apply, rest) == ["add"]


def test_of_two_chains_that_meet_the_later_one_goes_on(apply):
    rest = "%2 = neg(%0) : f32[2,2]\n%3 = mul(%2, %b) : f32[2,2]\n%4 = add(%3, %1) : f32[2,2]\nreturn %4"
    assert casts_after(apply, rest) == ["add"]


def test_every_operand_of_a_concat_is_cast(apply):
    rest = "%2 = mul(%0, %b) : f32[2,2]\n%3 = concat(%1, %2, %0) <axis=0> : f32[6,2]\nreturn %3"
    assert sorted(casts_after(apply, rest)) == ["add", "mul"]


def test_an_output_in_float32_needs_no_casts(apply):
    assert casts_after(apply, "return %1") == []


def test_an_infinity_stays_one(apply):
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (2,)))
    graph.mark_output(graph.add(Add(), x, graph.add_constant(np.array([0, -np.inf], np.float32))))
    (constant,) = apply(precision, graph, precision="fp16").graph.constants.values()
    assert constant.data[1] == -np.inf


@pytest.mark.parametrize(("name", "largest"), [("fp16", 65504.0), ("bf16", 3.3895314e38)])
def test_the_largest_float32_is_the_largest_there_is(apply, name, largest):
    """Masks of attention are made of it."""
    graph = Graph("g")
    x = graph.add_input("x", TensorType(f32, (1, 2)))
    most = np.finfo(np.float32).max
    ends = np.array([[most, -most], [1.5, -np.inf]], np.float32)
    graph.mark_output(graph.add(Add(), x, graph.add_constant(ends)))
    (constant,) = apply(precision, graph, precision=name).graph.constants.values()
    np.testing.assert_array_equal(
        constant.data.astype(np.float64), np.float32([[largest, -largest], [1.5, -np.inf]]).astype(np.float64)
    )


def test_a_number_that_vanishes_is_reported(apply):
    text = "graph g(%x: f32[2]) {\nconst %eps: f32[] = 1e-12\n%y = add(%x, %eps) : f32[2]\nreturn %y\n}"
    assert apply(precision, text, precision="fp16").refused == ["the number 1e-12 is 0 in f16"]
    assert not apply(precision, text, precision="bf16").refused


def test_an_unknown_precision_is_refused():
    with pytest.raises(OptionError, match="fp32, tf32, fp16, bf16"):
        PassContext("int7")  # type: ignore[arg-type]
