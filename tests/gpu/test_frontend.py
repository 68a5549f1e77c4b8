"""The torch side on a GPU: models on CUDA are imported, jitted and compiled; tensors stay on their device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import jitrt
from jitrt.errors import GradientError, ImportFailure, JitrtWarning
from jitrt.frontend.torch import import_torch
from jitrt.integrations.torch_compile import jitrt_backend, last_report

pytestmark = pytest.mark.gpu


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.head = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor, exotic: bool = False) -> torch.Tensor:
        y = self.features(x)
        if exotic:
            y = torch.logcumsumexp(y, 1)
        return self.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return Small().eval().cuda()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).cuda()


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    assert got.device == expected.device
    assert got.dtype == expected.dtype
    return float((got - expected).norm() / expected.norm())


def test_a_model_on_the_gpu_is_imported(model: nn.Module, x: torch.Tensor) -> None:
    graph = import_torch(model, (x,)).graph
    weight = graph.constants["head.weight"].data
    assert weight is not None
    assert torch.equal(torch.from_numpy(weight), model.get_parameter("head.weight").cpu())
    with pytest.raises(ImportFailure, match="is on cuda:0 and input 0 on cpu"):
        import_torch(model, (x.cpu(),))


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_a_jitted_module_runs_on_the_gpu(model: nn.Module, x: torch.Tensor, precision: str, bound: float) -> None:
    fast = jitrt.jit(model, precision=precision, tune="heuristic")
    with torch.no_grad():
        assert error(fast(x), model(x)) < bound
        assert error(fast(x[:1]), model(x[:1])) < bound
    assert len(fast.specialisations) == 2
    with pytest.raises(GradientError):
        fast(x.clone().requires_grad_())


def test_the_reference_target_takes_gpu_tensors(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        assert error(jitrt.jit(model, target="reference")(x), model(x)) < 1e-5


@pytest.mark.parametrize("exotic", [False, True])
def test_torch_compile_on_the_gpu(model: nn.Module, x: torch.Tensor, exotic: bool) -> None:
    torch._dynamo.reset()
    fast = torch.compile(model, backend=jitrt_backend, options={"tune": "heuristic"})
    with torch.no_grad():
        if exotic:
            with pytest.warns(JitrtWarning, match="logcumsumexp"):
                fast(x, exotic)
        assert error(fast(x, exotic), model(x, exotic)) < 1e-5
    report = last_report()
    assert report is not None
    assert report.engines == 1 + exotic
    assert [stayed.operator for stayed in report.stayed] == (["aten.logcumsumexp.default"] if exotic else [])
