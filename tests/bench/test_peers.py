"""What can be checked of the peers without a GPU."""

from __future__ import annotations

import gc
import weakref
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from jitrt.bench.peers import graphed


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
