"""What can be checked of the peers without a GPU."""

from __future__ import annotations

import gc
import weakref
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from jitrt.bench.measure import DoesNotApply
from jitrt.bench.peers import PEERS, compiled, graphed, peers_named
from jitrt.errors import OptionError


def test_a_captured_graph_keeps_the_weights_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they are freed, and a replay reads whatever lies there next: seen as NaN and as an illegal access."""
    for name in ("Stream", "stream", "current_stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    module = nn.Linear(2, 3)
    weight = weakref.ref(module.weight)
    x = torch.randn(1, 2)
    with torch.no_grad():
        call = graphed(module, (x,))
    del module
    gc.collect()
    assert weight() is not None
    assert call(torch.ones(1, 2)).shape == (1, 3)
    assert torch.equal(x, torch.ones(1, 2))  # other inputs are copied into the captured ones
    del call
    gc.collect()
    assert weight() is None


@pytest.mark.parametrize(
    ("name", "mode"),
    [("compile", "reduce-overhead"), ("compile-default", "default"), ("compile-max", "max-autotune")],
)
def test_torch_compile_is_asked_for_its_mode_with_freezing(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bool]] = []

    def compile(model: nn.Module, *, mode: str, dynamic: bool) -> nn.Module:
        assert next(iter(model.parameters())).is_contiguous(memory_format=torch.channels_last)

        def call(x: torch.Tensor) -> torch.Tensor:
            seen.append((mode, torch._inductor.config.freezing))
            return model(x)

        return call  # type: ignore[return-value]

    monkeypatch.setattr(torch, "compile", compile)
    x = torch.randn(1, 3, 8, 8)
    model = nn.Conv2d(3, 4, 3)
    assert torch.allclose(PEERS[name].prepare(model, (x,))(x), model(x), atol=1e-6)
    assert seen == [(mode, True)] * 4 + [(mode, torch._inductor.config.freezing)]


def test_a_mode_that_torch_lacks_is_a_reason() -> None:
    with pytest.raises(OptionError, match=r"torch.compile has no mode 'max-autotune-9' in PyTorch"):
        compiled("max-autotune-9")(nn.Linear(2, 2), (torch.zeros(1, 2),), torch.float32)


def test_what_takes_minutes_is_run_only_by_name() -> None:
    assert not {"compile-default", "compile-max"} & {peer.name for peer in peers_named("all")}
    assert [peer.name for peer in peers_named("compile-max,eager")] == ["compile-max", "eager"]


def test_whole_numbers_as_inputs_leave_the_dtype_to_the_precision() -> None:
    tokens = torch.tensor([[1, 2]])
    for precision, dtype in (("fp16", torch.float16), ("tf32", torch.float32)):
        (eager,) = peers_named("eager", precision=precision)
        with torch.no_grad():
            assert eager.prepare(nn.Embedding(3, 4), (tokens,))(tokens).dtype == dtype
    x = torch.ones(1, 2, dtype=torch.bfloat16)
    assert PEERS["eager"].prepare(nn.Linear(2, 2), (x,))(x).dtype == torch.bfloat16


def test_cudnn_is_nothing_for_a_network_without_convolutions() -> None:
    with pytest.raises(DoesNotApply, match=r"no convolutions; eager\+graph runs it as this would"):
        PEERS["cudnn-fused"].prepare(nn.Linear(2, 2), (torch.zeros(1, 2),))
