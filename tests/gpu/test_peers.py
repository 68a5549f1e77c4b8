"""Every peer on the GPU agrees with float32 PyTorch, and a graphed one takes inputs other than those it captured."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from jitrt.bench.measure import CudaTimer, device_state, measure, relative_error
from jitrt.bench.peers import BY_NAME_ONLY, PEERS

pytestmark = pytest.mark.gpu


class Block(nn.Module):
    """A residual block with a projection, a pool and a head: each pattern of the cudnn-fused peer once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.main = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64))
        self.side = nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(torch.relu(self.main(x) + self.side(x)).mean((2, 3)))


@pytest.mark.parametrize("name", [name for name in PEERS if name not in BY_NAME_ONLY])
def test_peer(name: str) -> None:
    torch.manual_seed(0)
    model = Block().train()
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        model(x)
        model.eval()
        static = x.cuda().half().contiguous(memory_format=torch.channels_last)
        call = PEERS[name].prepare(model, (static,))
        for fresh in (static, torch.randn_like(static)):
            reference = copy.deepcopy(model).cuda()(fresh.float())
            assert relative_error(call(fresh), reference) < 5e-3
        timing = measure(call, (static,), CudaTimer(), seconds=0.2)
    assert 0 < timing.gpu_compute.min <= timing.latency.max
    assert timing.enqueue.median <= timing.latency.median


_ONE_AFTER_ANOTHER = """
import torch
from torch import nn
from jitrt.bench.contest import release
from jitrt.bench.peers import PEERS

with torch.no_grad():
    for rows, width in ((64, 512), (1, 25088)):
        model = nn.Sequential(nn.Linear(width, 4096), nn.ReLU(), nn.Linear(4096, 1000)).eval()
        x = torch.randn(rows, width, device="cuda").half()
        calls = [PEERS[name].prepare(model, (x,)) for name in ("eager+graph", "compile", "cudnn-fused")]
        for call in 20 * calls:
            call(x)
        torch.cuda.synchronize()
        del call, calls
        release()
"""


def test_captured_peers_share_no_workspace_with_a_model_that_is_gone() -> None:
    # In a process of its own: what this is about, cuBLAS's workspace in another graph's memory, takes the context.
    done = subprocess.run([sys.executable, "-c", _ONE_AFTER_ANOTHER], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_gpus_state_is_read() -> None:
    state = device_state()
    assert state is not None
    assert state.sm_clock > 0
