from __future__ import annotations

import pytest

from jitrt.passes.simplify import simplify


def _graph(nodes: str, input: str = "f32[1,2,4,4]") -> str:
    return f"graph g(%x: {input}) {{\n{nodes}\nreturn %out\n}}"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "%out = adaptive_avg_pool(%x) <size=(1, 1)> : f32[1,2,1,1]",
            "%out = reduce_mean(%x) <axes=(2, 3), keepdims=True> : f32[1,2,1,1]",
        ),
        (
            "%out = adaptive_max_pool(%x) <size=(1, 1)> : f32[1,2,1,1]",
            "%out = reduce_max(%x) <axes=(2, 3), keepdims=True> : f32[1,2,1,1]",
        ),
        (
            "%out = avg_pool(%x) <kernel=(4, 4), stride=(1, 1), padding=(0, 0)> : f32[1,2,1,1]",
            "%out = reduce_mean(%x) <axes=(2, 3), keepdims=True> : f32[1,2,1,1]",
        ),
        (
            "%out = max_pool(%x) <kernel=(4, 4), stride=(4, 4), padding=(0, 0)> : f32[1,2,1,1]",
            "%out = reduce_max(%x) <axes=(2, 3), keepdims=True> : f32[1,2,1,1]",
        ),
        (
            "%out = adaptive_avg_pool(%x) <size=(2, 4)> : f32[1,2,2,4]",
            "%out = avg_pool(%x) <kernel=(2, 1), stride=(2, 1), padding=(0, 0)> : f32[1,2,2,4]",
        ),
        (
            "%out = adaptive_max_pool(%x) <size=(2, 2)> : f32[1,2,2,2]",
            "%out = max_pool(%x) <kernel=(2, 2), stride=(2, 2), padding=(0, 0)> : f32[1,2,2,2]",
        ),
        (
            "%0 = adaptive_avg_pool(%x) <size=(4, 4)> : f32[1,2,4,4]\n%out = relu(%0) : f32[1,2,4,4]",
            "%out = relu(%x) : f32[1,2,4,4]",
        ),
        (
            "%0 = expand(%x) <shape=(3, 2, 4, 4)> : f32[3,2,4,4]\n%1 = neg(%x) : f32[1,2,4,4]\n"
            "%2 = expand(%1) <shape=(3, 2, 4, 4)> : f32[3,2,4,4]\n%out = add(%0, %2) : f32[3,2,4,4]",
            "%1 = neg(%x) : f32[1,2,4,4]\n%2 = expand(%1) <shape=(3, 2, 4, 4)> : f32[3,2,4,4]\n"
            "%out = add(%x, %2) : f32[3,2,4,4]",
        ),
        (
            "%0 = slice(%x) <start=(0, 0, 0, 0), stop=(1, 0, 4, 4), step=(1, 1, 1, 1)> : f32[1,0,4,4]\n"
            "%1 = neg(%x) : f32[1,2,4,4]\n%out = concat(%x, %0, %1) <axis=1> : f32[1,4,4,4]",
            "%1 = neg(%x) : f32[1,2,4,4]\n%out = concat(%x, %1) <axis=1> : f32[1,4,4,4]",
        ),
    ],
)
def test_a_simpler_op(rewrites, before, after):
    assert rewrites(simplify, _graph(before), _graph(after)).done


@pytest.mark.parametrize(
    "node",
    [
        "%out = adaptive_avg_pool(%x) <size=(3, 3)> : f32[1,2,3,3]",
        "%out = avg_pool(%x) <kernel=(4, 4), stride=(4, 4), padding=(1, 1)> : f32[1,2,1,1]",
        "%out = max_pool(%x) <kernel=(2, 2), stride=(4, 4), padding=(0, 0), dilation=(3, 3)> : f32[1,2,1,1]",
        "%out = max_pool(%x) <kernel=(1, 1), stride=(2, 2), padding=(0, 0)> : f32[1,2,2,2]",
    ],
    ids=["sizes do not divide", "padding", "dilation skips elements", "stride skips elements"],
)
def test_a_pool_that_is_not_simpler_stays(rewrites, node):
    assert not rewrites(simplify, _graph(node)).done


def test_constants_come_second_and_single_elements_are_rank_0(rewrites):
    rewrites(
        simplify,
        """
        graph g(%x: f32[2,3]) {
          const %c: f32[1,1] = [[2.0]]
          const %d: f32[1] = [3.0]
          %0 = mul(%c, %x) : f32[2,3]
          %1 = sub(%d, %0) : f32[2,3]
          return %1
        }""",
        """
        graph g(%x: f32[2,3]) {
          const %c: f32[] = 2.0
          const %d: f32[] = 3.0
          %0 = mul(%x, %c) : f32[2,3]
          %1 = sub(%d, %0) : f32[2,3]
          return %1
        }""",
    )


def test_a_constant_that_gives_the_result_its_rank_stays(rewrites):
    rewrites(
        simplify,
        """
        graph g(%x: f32[3]) {
          const %c: f32[1,1] = [[2.0]]
          %0 = mul(%x, %c) : f32[1,3]
          return %0
        }""",
    )


_SHUFFLE = """
    graph g(%x: f32[1,2,2,2], %y: f32[1,2,2,2]) {{
      %0 = concat(%x, %y) <axis=1> : f32[1,4,2,2]
      %1 = reshape(%0) <shape=(1, {groups}, {rest}, 2, 2)> : f32[1,{groups},{rest},2,2]
      %2 = relu(%1) : f32[1,{groups},{rest},2,2]
      return {outputs}
    }}"""


def test_a_channel_shuffle_becomes_a_stack(rewrites):
    rewrites(
        simplify,
        _SHUFFLE.format(groups=2, rest=2, outputs="%2"),
        """
        graph g(%x: f32[1,2,2,2], %y: f32[1,2,2,2]) {
          %0 = reshape(%x) <shape=(1, 1, 2, 2, 2)> : f32[1,1,2,2,2]
          %1 = reshape(%y) <shape=(1, 1, 2, 2, 2)> : f32[1,1,2,2,2]
          %v = concat(%0, %1) <axis=1> : f32[1,2,2,2,2]
          %2 = relu(%v) : f32[1,2,2,2,2]
          return %2
        }""",
    )


@pytest.mark.parametrize(
    ("groups", "rest", "outputs"), [(4, 1, "%2"), (2, 2, "%2, %0")], ids=["not one group an operand", "others read it"]
)
def test_a_concat_that_is_no_stack_stays(rewrites, groups, rest, outputs):
    rewrites(simplify, _SHUFFLE.format(groups=groups, rest=rest, outputs=outputs))


def test_a_factor_before_a_product_moves_behind_it(rewrites):
    outcome = rewrites(
        simplify,
        """
        graph g(%q: f32[3,4], %k: f32[4,5]) {
          const %c: f32[] = 0.5
          %0 = mul(%q, %c) : f32[3,4]
          %1 = matmul(%0, %k) <tf32=False> : f32[3,5]
          return %1
        }""",
        """
        graph g(%q: f32[3,4], %k: f32[4,5]) {
          const %c: f32[] = 0.5
          %0 = matmul(%q, %k) <tf32=False> : f32[3,5]
          %1 = mul(%0, %c) : f32[3,5]
          return %1
        }""",
    )
    assert outcome.done == ["a factor before the product moved behind it"]


@pytest.mark.parametrize(
    ("before", "result"),
    [
        ("%0 = mul(%q, %v) : f32[3,4]", "%1"),  # one factor a column
        ("const %c: f32[] = 0.5\n%0 = mul(%q, %c) : f32[3,4]", "%0, %1"),  # read by others too
        ("const %c: f32[] = 0.5\n%0 = add(%q, %c) : f32[3,4]", "%1"),
    ],
)
def test_a_factor_that_stays(rewrites, before, result):
    outcome = rewrites(
        simplify,
        f"""
        graph g(%q: f32[3,4], %k: f32[4,5], %v: f32[4]) {{
          {before}
          %1 = matmul(%0, %k) <tf32=False> : f32[3,5]
          return {result}
        }}""",
    )
    assert not outcome.done
