"""Networks of 1-d, 3-d and transposed convolutions as whole plans, every launch in the interpreter, against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jitrt.compiler import Options
from jitrt.frontend.torch import import_torch
from jitrt.testing import plan_interpreted
from tests.integration.test_plan_interpreted import check


def norm(dims: int, channels: int) -> nn.Module:
    """A batch norm with statistics and weights that are not trivial."""
    made = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](channels)
    low = {"running_mean": -0.5, "running_var": 0.5, "weight": 0.5, "bias": -0.5}
    for name, start in low.items():
        getattr(made, name).data.uniform_(start, start + 1)
    return made


class UNet(nn.Module):
    """One level: down, up again through a 2x2 of stride 2 written into the concat with what passed by."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), norm(2, 8), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        side = F.relu(self.first(x))
        deep = F.relu(self.second(F.max_pool2d(side, 2)))
        return self.last(torch.cat([self.up(deep), side], 1))


class Generator(nn.Module):
    """DCGAN's: from one pixel, doubling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ConvTranspose2d(10, 24, 4, 1, 0, bias=False),
            *(norm(2, 24), nn.ReLU(), nn.ConvTranspose2d(24, 12, 4, 2, 1, bias=False)),
            *(norm(2, 12), nn.ReLU(), nn.ConvTranspose2d(12, 3, 4, 2, 1, bias=False), nn.Tanh()),
        )

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layers(z)


class Sound(nn.Module):
    """One dimension: strided, depthwise, dilated with padding "same", transposed with and without stride, pools."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            *(nn.Conv1d(1, 8, 10, 5), nn.GELU(), nn.Conv1d(8, 8, 3, padding=1, groups=8), norm(1, 8), nn.ReLU())
        )
        self.residual = nn.Conv1d(8, 8, 5, padding="same", dilation=2)
        self.decode = nn.Sequential(
            *(nn.ConvTranspose1d(8, 6, 4, 2, 1), norm(1, 6), nn.LeakyReLU(0.1), nn.ConvTranspose1d(6, 4, 3, 1, 1))
        )

    def forward(self, x: torch.Tensor) -> object:
        x = self.encode(x)
        x = self.decode(F.max_pool1d(self.residual(x) + x, 2))
        average = F.avg_pool1d(x, 3, 2, 1)
        return x, F.adaptive_avg_pool1d(average, 2), F.adaptive_max_pool1d(x, 1).flatten(1)


class Video(nn.Module):
    """Three dimensions: a stem, depthwise, residual, transposed, every pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 8, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
        self.norm, self.depthwise = norm(3, 8), nn.Conv3d(8, 8, 3, padding="same", groups=8)
        self.residual = nn.Conv3d(8, 8, 3, padding=1)
        self.up, self.classifier = nn.ConvTranspose3d(8, 4, (1, 2, 2), (1, 2, 2)), nn.Linear(8, 3)
        self.last = norm(3, 4)

    def forward(self, x: torch.Tensor) -> object:
        x = self.depthwise(F.max_pool3d(F.relu(self.norm(self.stem(x))), (1, 2, 2)))
        x = F.relu(self.residual(x) + x)
        scores = self.classifier(F.adaptive_avg_pool3d(x, 1).flatten(1))
        return F.relu(self.last(self.up(x))), scores, F.avg_pool3d(x, 2), F.adaptive_max_pool3d(x, (1, 2, 1))


class Others(nn.Module):
    """Weights from outside, an input without its batch, groups, what an odd size leaves of a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.ConvTranspose2d(6, 9, 3, 2, 1, groups=3)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> object:
        odd = F.relu(self.grouped(x))
        unbatched = F.conv_transpose2d(x[0], w, stride=(2, 1), output_padding=(1, 0))
        return odd, unbatched, F.conv_transpose1d(x[:, :, 0], w[:, :, :, 0])


class Modulated(nn.Module):
    """StyleGAN 2's convolutions: filters of their own for each image, which makes the images groups."""

    def forward(self, x: torch.Tensor, w: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        n, c, *size = x.shape
        each = w * style[:, None, :, None, None]
        y = F.conv2d(x.reshape(1, n * c, *size), each.flatten(0, 1), padding=1, groups=n)
        return F.conv_transpose2d(F.relu(y), each.flatten(0, 1), stride=2, groups=n)


class Double(nn.Module):
    """float64, whose convolutions and linear layers are plain products."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up = nn.Conv2d(4, 6, 3, 2, (1, 2), (1, 2), groups=2), nn.Linear(6, 5)
        self.sound = nn.Conv1d(6, 3, 2, bias=False)
        self.double()

    def forward(self, x: torch.Tensor) -> object:
        x = F.relu(self.conv(x.double()))
        return self.up(x.mean((2, 3))).float(), self.sound(x.flatten(2)).float()


NETWORKS = {
    "unet": (UNet, ((1, 3, 8, 6),)),
    "generator": (Generator, ((2, 10, 1, 1),)),
    "sound": (Sound, ((2, 1, 60),)),
    "video": (Video, ((1, 3, 3, 12, 8),)),
    "modulated": (Modulated, ((2, 3, 5, 4), (4, 3, 3, 3), (2, 3))),
    "double": (Double, ((2, 4, 7, 6),)),
    "others": (Others, ((1, 6, 4, 5), (6, 4, 3, 2))),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name: str, precision: str) -> None:
    torch.manual_seed(0)
    make, shapes = NETWORKS[name]
    check(make(), tuple(torch.randn(shape) for shape in shapes), precision)


def test_batch_norms_and_activations_go_into_the_convolutions() -> None:
    """A U-Net's level is its convolutions and its pool: five launches, none for the concat."""
    x = torch.randn(1, 3, 8, 6)
    planned = plan_interpreted(import_torch(UNet().eval(), (x,)).graph, Options("fp16"))
    assert len(planned.plan.launches) == 5
