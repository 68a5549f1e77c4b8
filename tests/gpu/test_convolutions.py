"""1-d, 3-d and transposed convolutions at real sizes on the GPU, against PyTorch in float32.

First as models with the cost model's first guess; then every candidate of the transposed kernel, verified and timed.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import nn  # noqa: E402

import jitrt  # noqa: E402
from jitrt.bench.measure import relative_error  # noqa: E402
from tests.gpu.candidates import check_candidates  # noqa: E402
from tests.kernels.convolutions import transposed_problem  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

BOUNDS = {"fp16": 5e-3, "bf16": 4e-2, "tf32": 5e-3, "fp32": 1e-5}


def followed(layer: nn.Module) -> nn.Module:
    """The layer with a batch norm and an activation after it."""
    norms = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    channels = layer.weight.shape[1] * layer.groups if transposed else layer.weight.shape[0]  # type: ignore[operator, index]
    norm = norms[layer.weight.dim()](channels)  # type: ignore[operator, arg-type]
    for name, low in {"running_mean": -0.5, "running_var": 0.5, "weight": 0.5, "bias": -0.5}.items():
        getattr(norm, name).data.uniform_(low, low + 1)
    return nn.Sequential(layer, norm, nn.SiLU())


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "DCGAN, first": (lambda: nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False), (8, 100, 1, 1)),
    "DCGAN, middle": (lambda: nn.ConvTranspose2d(256, 128, 4, 2, 1, bias=False), (8, 256, 16, 16)),
    "DCGAN, last": (lambda: nn.ConvTranspose2d(64, 3, 4, 2, 1), (4, 64, 32, 32)),
    "U-Net": (lambda: nn.ConvTranspose2d(256, 128, 2, 2), (2, 256, 64, 64)),
    "CycleGAN": (lambda: nn.ConvTranspose2d(256, 128, 3, 2, 1, 1), (1, 256, 64, 64)),
    "odd size, grouped": (lambda: nn.ConvTranspose2d(96, 192, 5, 3, 2, groups=3, dilation=2), (2, 96, 29, 31)),
    "depthwise upsampling": (lambda: nn.ConvTranspose2d(64, 64, 4, 2, 1, groups=64), (2, 64, 56, 56)),
    "HiFi-GAN": (lambda: nn.ConvTranspose1d(512, 256, 16, 8, 4), (1, 512, 200)),
    "V-Net": (lambda: nn.ConvTranspose3d(64, 32, 2, 2), (1, 64, 16, 32, 32)),
    "wav2vec, first": (lambda: nn.Conv1d(1, 512, 10, 5, bias=False), (2, 1, 16000)),
    "Whisper": (lambda: nn.Conv1d(384, 384, 3, 2, 1), (2, 384, 3000)),
    "wav2vec, positions": (lambda: nn.Conv1d(768, 768, 128, padding=64, groups=16), (1, 768, 300)),
    "Conformer": (lambda: nn.Conv1d(256, 256, 31, padding=15, groups=256), (2, 256, 1000)),
    "R3D, stem": (lambda: nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False), (1, 3, 8, 112, 112)),
    "R3D, block": (lambda: nn.Conv3d(64, 64, 3, padding=1), (1, 64, 8, 56, 56)),
    "X3D, depthwise": (lambda: nn.Conv3d(54, 54, 3, (1, 2, 2), 1, groups=54), (1, 54, 8, 56, 56)),
}


class Together(nn.Module):
    """All cases as one model, so that their kernels are compiled side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.cases = nn.ModuleList(followed(make()) for make, _ in CASES.values())

    def forward(self, *xs: torch.Tensor) -> list[torch.Tensor]:
        return [case(x) for case, x in zip(self.cases, xs)]


@pytest.mark.parametrize("precision", BOUNDS)
def test_agrees_with_float32_pytorch(precision: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    model = Together().cuda().eval()
    xs = tuple(torch.randn(shape, device="cuda") for _, shape in CASES.values())
    with torch.no_grad():
        reference = model(*xs)
    major, minor = torch.cuda.get_device_capability()
    # Built as on a machine without this GPU: nothing is measured, so it takes seconds.
    engine = jitrt.compile(model, xs, precision=precision, target=f"sm_{major}{minor}", cache=False)
    assert isinstance(engine, jitrt.Engine)
    found = engine(*xs)
    errors = {name: relative_error(y, wanted) for name, y, wanted in zip(CASES, found, reference, strict=True)}
    layers = engine.plan.layers
    engine.close()
    print(precision, {name: f"{error:.1e}" for name, error in errors.items()})
    assert len(layers) == len(CASES), "a batch norm or activation is a kernel of its own"
    assert all(error < BOUNDS[precision] for error in errors.values()), errors


def test_every_candidate_is_right() -> None:
    two, one = (2, 2), ((1, 1), (1, 1))
    problems = {
        "4x4": transposed_problem((8, 256, 16, 16), 128, (4, 4), stride=two, padding=one, residual=True),
        "few filters": transposed_problem((4, 64, 32, 32), 3, (4, 4), stride=two, padding=one),
        "2x2, into a slice": transposed_problem((2, 128, 32, 32), 64, (2, 2), stride=two, row_gap=64),
        "3x3 of odd size": transposed_problem((1, 128, 31, 33), 64, (3, 3), stride=two),
        "2x4 by 3, phases without taps": transposed_problem((2, 64, 16, 17), 64, (2, 4), stride=(3, 3)),
    }
    check_candidates(problems)
