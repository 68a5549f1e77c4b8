from __future__ import annotations

import pytest

from jitrt.passes.absorb_padding import absorb_padding

_POOL = "<kernel=(3, 3), stride=(1, 1), padding=({p}, {p}), ceil_mode={ceil}{more}>"


def _conv(pad: str, own: int = 0, size: int = 5) -> str:
    return f"""
        graph g(%x: f32[1,1,3,3]) {{
          const %w: f32[1,1,2,2] = [[[[1.0, 2.0], [3.0, 4.0]]]]
          {pad}
          %1 = conv(%0, %w) <stride=(1, 1), padding={((own, own),) * 2}, dilation=(1, 1)> : f32[1,1,{size},{size}]
          return %1
        }}"""


def test_a_convolution_pads_for_itself(rewrites):
    outcome = rewrites(
        absorb_padding,
        _conv("%0 = pad(%x) <padding=((0, 0), (0, 0), (1, 0), (0, 1)), value=0.0> : f32[1,1,4,4]", own=1),
        """
        graph g(%x: f32[1,1,3,3]) {
          const %w: f32[1,1,2,2] = [[[[1.0, 2.0], [3.0, 4.0]]]]
          %1 = conv(%x, %w) <stride=(1, 1), padding=((2, 1), (1, 2)), dilation=(1, 1)> : f32[1,1,5,5]
          return %1
        }""",
    )
    assert outcome.done == ["pad absorbed by conv"]


@pytest.mark.parametrize(
    ("pad", "reason"),
    [
        (
            "%0 = pad(%x) <padding=((0, 0), (0, 0), (1, 2), (1, 2)), value=1.0> : f32[1,1,6,6]",
            "pad before conv stays: it pads with 1.0, a convolution pads with 0",
        ),
    ],
)
def test_a_convolution_refuses(rewrites, pad, reason):
    assert rewrites(absorb_padding, _conv(pad)).refused == [reason]


def test_channels_are_not_space(rewrites):
    outcome = rewrites(
        absorb_padding,
        """
        graph g(%x: f32[1,1,3,3]) {
          const %w: f32[1,2,1,1] = [[[[1.0]], [[2.0]]]]
          %0 = pad(%x) <padding=((0, 0), (1, 0), (0, 0), (0, 0)), value=0.0> : f32[1,2,3,3]
          %1 = conv(%0, %w) <stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)> : f32[1,1,3,3]
          return %1
        }""",
    )
    assert outcome.refused == ["pad before conv stays: it pads images or channels, not only space"]


def _pool(
    kind: str,
    value: float,
    *,
    before: str = "relu",
    pad: str = "(1, 1)",
    p: int = 0,
    ceil: bool = False,
    more: str = "",
) -> str:
    size = 3 + 2 * p
    return f"""
        graph g(%x: f32[1,1,3,3]) {{
          %r = {before}(%x) : f32[1,1,3,3]
          %0 = pad(%r) <padding=((0, 0), (0, 0), {pad}, {pad}), value={value}> : f32[1,1,5,5]
          %1 = {kind}(%0) {_POOL.format(p=p, ceil=ceil, more=more)} : f32[1,1,{size},{size}]
          return %1
        }}"""


@pytest.mark.parametrize(
    ("kind", "value", "before"),
    [
        ("max_pool", -float("inf"), "neg"),
        ("max_pool", 0.0, "relu"),
        ("max_pool", -1.0, "sigmoid"),
        ("avg_pool", 0.0, "neg"),
    ],
)
def test_a_pool_pads_for_itself(rewrites, kind, value, before):
    more = ", count_include_pad=True" if kind == "avg_pool" else ""
    rewrites(
        absorb_padding,
        _pool(kind, value, before=before, more=more),
        f"""
        graph g(%x: f32[1,1,3,3]) {{
          %r = {before}(%x) : f32[1,1,3,3]
          %1 = {kind}(%r) {_POOL.format(p=1, ceil=False, more=more)} : f32[1,1,3,3]
          return %1
        }}""",
    )


def test_clamp_shows_its_result_is_not_negative(apply):
    text = _pool("max_pool", 0.0).replace("relu(%x)", "clamp(%x) <low=0.0, high=6.0>")
    assert apply(absorb_padding, text).done
    assert apply(absorb_padding, text.replace("low=0.0", "low=-1.0")).refused


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (_pool("max_pool", 0.0, before="neg"), "it pads with 0.0, which may be the maximum"),
        (_pool("max_pool", 1.0), "it pads with 1.0, which may be the maximum"),
        (_pool("avg_pool", 1.0), "it pads with 1.0, a mean needs 0"),
        (_pool("max_pool", 0.0, pad="(2, 0)"), "it pads one side more than the other, a pool both alike"),
        (_pool("max_pool", 0.0, p=1), "it pads more than half the pool's window"),
        (_pool("max_pool", 0.0, ceil=True), "the pool rounds its size up, which counts padding differently"),
    ],
)
def test_a_pool_refuses(rewrites, graph, reason):
    assert rewrites(absorb_padding, graph).refused == [
        f"pad before {'max' if 'max_pool' in graph else 'avg'}_pool stays: {reason}"
    ]


def test_a_mean_that_leaves_its_own_padding_out_refuses(rewrites):
    outcome = rewrites(
        absorb_padding,
        """
        graph g(%x: f32[1,1,3,3]) {
          %0 = pad(%x) <padding=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0> : f32[1,1,5,5]
          %1 = avg_pool(%0) <kernel=(4, 4), stride=(1, 1), padding=(1, 1), count_include_pad=False> : f32[1,1,4,4]
          return %1
        }""",
    )
    assert outcome.refused == ["pad before avg_pool stays: the pool leaves its own padding out of the mean"]


def test_each_reader_decides_alone(apply):
    outcome = apply(
        absorb_padding,
        """
        graph g(%x: f32[1,1,3,3]) {
          const %w: f32[1,1,1,1] = [[[[2.0]]]]
          %0 = pad(%x) <padding=((0, 0), (0, 0), (1, 1), (1, 1)), value=0.0> : f32[1,1,5,5]
          %1 = conv(%0, %w) <stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)> : f32[1,1,5,5]
          %2 = max_pool(%0) <kernel=(2, 2), stride=(1, 1), padding=(0, 0)> : f32[1,1,4,4]
          return %1, %2
        }""",
    )
    assert [node.op.name for node in outcome.graph.nodes] == ["pad", "conv", "max_pool"]
    assert len(outcome.done) == len(outcome.refused) == 1
