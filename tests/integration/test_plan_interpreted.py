"""Whole plans, run without a GPU: every launch in Triton's interpreter, at the plan's own addresses.

Networks are small but shaped like real ones: memory plan, views, concats in place, packed weights, workspaces and the
order of launches all have to be right for the answer to be PyTorch's. What else is checked, jitrt.testing.machine says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import jitrt
from jitrt.bench.bert import Bert
from jitrt.bench.models import torchvision_models
from jitrt.compiler import Options
from jitrt.frontend.torch import import_torch
from jitrt.plan.schema import Plan
from jitrt.runtime.loaded import nester
from jitrt.testing import plan_interpreted
from tests.passes.nets import verdict

BOUNDS = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}


def norm(channels: int) -> nn.BatchNorm2d:
    """A batch norm with statistics and weights that are not trivial."""
    made = nn.BatchNorm2d(channels)
    for tensor, low in (
        (made.running_mean, -0.5),
        (made.running_var, 0.5),
        (made.weight.data, 0.5),
        (made.bias.data, -0.5),
    ):
        assert tensor is not None
        tensor.uniform_(low, low + 1)
    return made


def conv(
    inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: type[nn.Module] = nn.ReLU
) -> nn.Module:
    """conv + batch norm + activation, padded to keep the size."""
    return nn.Sequential(
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False), norm(out), act()
    )


class Residual(nn.Module):
    """ResNet's basic block with a downsampling shortcut, then one without."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (
            conv(8, 12, 3, 2),
            conv(12, 12, 3, act=nn.Identity),
            conv(12, 12, 3),
            conv(12, 12, 3),
        )
        self.down = conv(8, 12, 1, 2, act=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.b(self.a(x)) + self.down(x))
        return F.relu(self.d(self.c(x)) + x)


class Inception(nn.Module):
    """GoogLeNet's module; one branch ends in a concat of its own, as in Inception-v3."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three = conv(10, 6, 1), nn.Sequential(conv(10, 4, 1), conv(4, 7, 3))
        self.stem, self.left, self.right = (
            conv(10, 5, 1),
            nn.Conv2d(5, 3, (1, 3), padding=(0, 1)),
            nn.Conv2d(5, 4, (3, 1), padding=(1, 0)),
        )
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(10, 5, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = self.stem(x)
        forked = torch.cat([F.relu(self.left(split)), F.relu(self.right(split))], 1)
        return torch.cat([self.one(x), self.three(x), forked, self.pool(x)], 1)


class Dense(nn.Module):
    """DenseNet: each layer reads all earlier features; then a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(6 + 4 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1, bias=False) for i in range(3))
        self.transition = nn.Sequential(norm(18), nn.ReLU(), nn.Conv2d(18, 9, 1, bias=False), nn.AvgPool2d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [x]
        for bn, layer in zip(self.norms, self.convs):
            features.append(layer(F.relu(bn(torch.cat(features, 1)))))
        return self.transition(torch.cat(features, 1))


class Bottleneck(nn.Module):
    """DenseNet-121's layers: norm and relu before a 1x1 and before a 3x3 convolution; a squeezed gate at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Sequential(norm(6 + 4 * i), nn.ReLU(), conv(6 + 4 * i, 9, 1)) for i in range(3))
        self.second = nn.ModuleList(nn.Conv2d(9, 4, 3, padding=1, bias=False) for _ in range(3))
        self.excite, self.project = nn.Conv2d(18, 18, 1), nn.Conv2d(18, 7, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for first, second in zip(self.first, self.second):
            x = torch.cat([x, second(first(x))], 1)
        return self.project(x * self.excite(x.mean((2, 3), keepdim=True)).sigmoid())


class Mobile(nn.Module):
    """MobileNetV3's block: expand, depthwise, squeeze and excite, project, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.depthwise = conv(8, 20, 1, act=nn.Hardswish), conv(20, 20, 5, groups=20, act=nn.Hardswish)
        self.squeeze, self.excite = nn.Conv2d(20, 6, 1), nn.Conv2d(6, 20, 1)
        self.project = conv(20, 8, 1, act=nn.Identity)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.depthwise(self.expand(x))
        scale = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.project(y * scale) + x


class Shuffle(nn.Module):
    """ShuffleNetV2's unit: half the channels pass by, then a channel shuffle; twice."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(conv(6, 6, 1), conv(6, 6, 3, groups=6, act=nn.Identity), conv(6, 6, 1)) for _ in range(2)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for branch in self.branches:
            first, second = x.chunk(2, 1)
            x = torch.cat([first, branch(second)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return x


class ConvNeXt(nn.Module):
    """A block between permutes: depthwise 7x7, layer norm, two linear layers, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(8, 8, 7, padding=3, groups=8), nn.LayerNorm(8)
        self.up, self.down, self.scale = nn.Linear(8, 24), nn.Linear(24, 8), nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


class Flat(nn.Module):
    """VGG's end: adaptive pool, flatten, linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 6, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((3, 2)))
        self.classifier = nn.Sequential(nn.Linear(36, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Stem(nn.Module):
    """A 7x7 convolution of stride 2 and a max pool, global average, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(conv(3, 8, 7, 2), nn.MaxPool2d(3, 2, 1, ceil_mode=True))
        self.classifier = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class Grouped(nn.Module):
    """ResNeXt's block, and groups whose bundles do not fill the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(conv(12, 24, 1), conv(24, 24, 3, groups=6), conv(24, 12, 1, act=nn.Identity))
        self.odd = nn.Conv2d(12, 15, 3, padding=(2, 0), dilation=(2, 1), groups=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.odd(F.relu(self.block(x) + x))


class Pools(nn.Module):
    """Every kind of pool, adaptive windows that overlap among them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sliding = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False) + F.max_pool2d(x, 2, 2, ceil_mode=True)
        adaptive = F.adaptive_avg_pool2d(sliding, (3, 2)) * F.adaptive_max_pool2d(sliding, (3, 2))
        return torch.cat([adaptive.flatten(1), F.adaptive_max_pool2d(x, 1).flatten(1), x.amin((1, 2))], 1)


class Several(nn.Module):
    """Results of all kinds: read further on, a view, the same one twice, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(6, 8, 3), conv(8, 4, 1)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> object:
        middle = self.first(x)
        end = self.second(middle) + y
        joined = torch.cat([middle, end], 1)
        return {
            "middle": middle,
            "end": [end, end],
            "part": joined[:, 5:9],
            "turned": middle.permute(0, 2, 3, 1),
            "joined": joined,
        }


class Untouched(nn.Module):
    """Results that nothing computes: an input, a slice of one, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.arange(6.0).reshape(2, 3))

    def forward(self, x: torch.Tensor) -> object:
        return x, x[:, 1:3, ::2], self.table, x + 1


class Odd(nn.Module):
    """Inputs read through views that begin at odd places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> object:
        part = x[:, 1:5, 1:, 1:]
        return self.conv(part) + x[:, :6, 1:, 1:], part.flip(1) if False else part.sum(1), x.sum()


class Attention(nn.Module):
    """Matrix products of activations, softmax, a mask, pixels that come as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Conv2d(3, 24, 4, 4), nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> object:
        x = self.embed(pixels.float() / 255 - 0.5).flatten(2).transpose(1, 2)
        n, length, _ = x.shape
        q, k, v = self.mix(x).view(n, length, 3, 4, 6).permute(2, 0, 3, 1, 4)
        scores = torch.where(mask, q @ k.transpose(-1, -2) / 6**0.5, torch.tensor(-30.0)).softmax(-1)
        y = self.out((scores @ v).transpose(1, 2).reshape(n, length, 24)) + x
        return y, y.amax(1), (scores > 0.5).sum((-1, -2))


def vision() -> nn.Module:
    """A vision transformer of two layers: a class token before the patches, and PyTorch's own attention."""
    made = torchvision_models().VisionTransformer(12, 4, 2, 3, 24, 40, num_classes=5)
    nn.init.normal_(made.heads.head.weight)
    return made


class Live(nn.Module):
    """Convolutions with weights that come from outside, and the last layer of a classifier over few classes."""

    def forward(self, x: torch.Tensor, dense: torch.Tensor, depthwise: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, dense, padding=1) + F.conv2d(x, depthwise, padding=1, groups=6).repeat(1, 2, 1, 1)
        return torch.cat([x[:, :0], x], 1).mean((2, 3)).softmax(1)


def images(*shape: int) -> Callable[[int], tuple[torch.Tensor, ...]]:
    return lambda batch: (torch.randn(batch, *shape),)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[torch.Tensor, ...]]]] = {
    "residual": (Residual, images(8, 9, 7)),
    "inception": (Inception, images(10, 6, 5)),
    "dense": (Dense, images(6, 6, 6)),
    "bottleneck": (Bottleneck, images(6, 5, 6)),
    "mobile": (Mobile, images(8, 7, 6)),
    "shuffle": (Shuffle, images(12, 5, 6)),
    "convnext": (ConvNeXt, images(8, 6, 7)),
    "flat": (Flat, images(3, 10, 9)),
    "stem": (Stem, images(3, 17, 14)),
    "grouped": (Grouped, images(12, 6, 5)),
    "pools": (Pools, images(5, 9, 8)),
    "several": (Several, lambda batch: (torch.randn(batch, 6, 5, 4), torch.randn(batch, 4, 5, 4))),
    "untouched": (Untouched, images(4, 5, 3)),
    "odd": (Odd, images(7, 6, 5)),
    "attention": (
        Attention,
        lambda batch: (torch.randint(0, 256, (batch, 3, 8, 12), dtype=torch.uint8), torch.rand(6, 6) < 0.8),
    ),
    "vision": (vision, images(3, 12, 12)),
    "bert": (
        lambda: Bert(layers=2, width=24, heads=3, hidden=40, words=20, positions=9),
        lambda batch: (torch.randint(0, 20, (batch, 7)),),
    ),
    "live": (Live, lambda batch: (torch.randn(batch, 6, 5, 4), torch.randn(12, 6, 3, 3), torch.randn(6, 1, 3, 3))),
}


def leaves(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in leaves(part)]  # type: ignore[attr-defined]


def check(
    model: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    precision: str,
    *,
    parallel: bool = True,
    without: tuple[str, ...] = (),
) -> Plan:
    """Run a model's plan, with all that rules may do, and compare every result with PyTorch's in float32."""
    model.eval()
    imported = import_torch(model, inputs)
    options = Options(precision, parallel=parallel, without=without)
    planned = plan_interpreted(imported.graph, options, structure=imported.structure, judge=verdict(True))
    outputs = planned.run([tensor.numpy() for tensor in inputs], seed=1)
    with torch.no_grad():
        expected = leaves(model(*inputs))
    actual = leaves(nester(planned.plan.structure, len(outputs))([torch.from_numpy(array) for array in outputs]))
    assert len(actual) == len(expected)
    for got, wanted in zip(actual, expected):
        assert got.shape == wanted.shape
        assert got.dtype == wanted.dtype
        if not got.is_floating_point():
            assert torch.equal(got, wanted)
            continue
        error = (got - wanted).norm() / wanted.norm().clamp_min(1e-12)
        assert error < BOUNDS[precision], f"relative error {error:.1e} in {precision}"
    return planned.plan


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_float16(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    check(make(), inputs(1), "fp16")


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_float32_at_batch_3(name: str) -> None:
    torch.manual_seed(1)
    make, inputs = NETWORKS[name]
    check(make(), inputs(3), "fp32")


@pytest.mark.parametrize("name", ["inception", "mobile", "convnext", "attention"])
def test_networks_in_bfloat16(name: str) -> None:
    torch.manual_seed(2)
    make, inputs = NETWORKS[name]
    check(make(), inputs(2), "bf16")


def test_attention_is_one_kernel() -> None:
    torch.manual_seed(2)
    make, inputs = NETWORKS["bert"]
    plan = check(make(), inputs(2), "bf16")
    assert sum(layer.tactic.startswith("attention(") for layer in plan.layers) == 2
    assert not any(layer.tactic.startswith(("matmul(", "softmax(")) for layer in plan.layers)


def test_what_is_computed_on_the_way_into_convolutions_saves_kernels() -> None:
    torch.manual_seed(4)
    model, x = Bottleneck().eval(), torch.randn(2, 6, 5, 6)
    saved = check(model, (x,), "fp32")
    assert len(saved.launches) + 4 == len(check(model, (x,), "fp32", without=("fuse_prologue",)).launches)
    reference = jitrt.compile(model, (x,), target="reference")
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(reference(x)), model(x), rtol=1e-4, atol=1e-5)


def longest_chain(plan: Plan) -> int:
    """Launches of which each has to wait for the one before."""
    lengths: list[int] = []
    for launch in plan.launches:
        lengths.append(1 + max((lengths[earlier] for earlier in launch.after), default=0))
    return max(lengths)


def test_branches_of_a_concat_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model, x = Inception(), images(10, 6, 5)(1)
    monkeypatch.setattr(sys.modules["jitrt.passes.plan_memory"], "_PRICE", 10)  # next to nothing is a lot more here
    apart = ("join_branches",)
    assert longest_chain(check(model, x, "fp32", without=apart)) == 2
    serial = check(model, x, "fp32", parallel=False, without=apart)
    assert longest_chain(serial) == len(serial.launches) == 7
