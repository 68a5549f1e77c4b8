"""Every layer of `tests.layers` on the GPU, and index kernels at the sizes of real models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

import jitrt
from tests.layers import LAYERS, leaves

pytestmark = pytest.mark.gpu
BOUNDS = {"fp32": 1e-5, "fp16": 5e-3}
# Which element is found where two are equal in 16 bits, and not in 32, is nobody's promise.
FINDS = ("topk", "topk of long rows", "argmax", "arithmetic", "reductions", "trigonometry", "activations")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Together(torch.nn.Module):
    """Several layers side by side in one engine, so that their kernels are compiled at the same time."""

    def __init__(self, names: Sequence[str]):
        super().__init__()
        self.layers = torch.nn.ModuleList(LAYERS[name][0]() for name in names)
        self.inputs = [LAYERS[name][1]() for name in names]

    def forward(self, *tensors: torch.Tensor) -> list[list[torch.Tensor]]:
        given = iter(tensors)
        parts = zip(self.layers, self.inputs, strict=True)
        return [leaves(layer(*(next(given) for _ in inputs))) for layer, inputs in parts]


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("group", range(4))
def test_layers(group: int, precision: str) -> None:
    names = [name for name in list(LAYERS)[group::4] if precision == "fp32" or name not in FINDS]
    torch.manual_seed(0)
    model = Together(names).eval().cuda()
    tensors = [tensor.cuda() for inputs in model.inputs for tensor in inputs]
    engine = jitrt.compile(model, tuple(tensors), precision=precision, tune="heuristic")
    with torch.no_grad():
        expected = model(*tensors)
    actual = engine(*tensors)
    wrong = [name for name, a, b in zip(names, actual, expected, strict=True) if not _agree(a, b, BOUNDS[precision])]
    assert not wrong


def _agree(actual: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], bound: float) -> bool:
    for got, wanted in zip(actual, expected, strict=True):
        if (got.shape, got.dtype) != (wanted.shape, wanted.dtype):
            return False
        exact = not wanted.is_floating_point()
        if not (torch.equal(got, wanted) if exact else (got - wanted).norm() <= bound * wanted.norm()):
            return False
    return True


def test_of_a_vocabulary() -> None:
    """Embedding of 30000 words, argmax and the 50 best of as many, the best of them sorted."""

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(30000, 256)

        def forward(self, tokens: torch.Tensor) -> object:
            scores = self.words(tokens)[:, -1] @ self.words.weight.T
            values, positions = scores.topk(50)
            return values, positions, scores.argmax(1), scores.cumsum(1)[:, -1]

    torch.manual_seed(0)
    model, tokens = Model().eval().cuda(), torch.randint(0, 30000, (4, 128)).cuda()
    with torch.no_grad():
        values, positions, best, total = model(tokens)
    got = jitrt.compile(model, (tokens,), tune="heuristic")(tokens)
    assert (got[0] - values).norm() <= 1e-5 * values.norm()
    assert (got[1] == positions).float().mean() > 0.98  # close scores may change places
    assert torch.equal(got[2], best)
    assert (got[3] - total).norm() <= 1e-4 * total.norm()


@pytest.mark.parametrize("length", [33, 1000, 4096])
def test_sorting_is_torchs(length: int) -> None:
    x = torch.randn(37, length).cuda()
    x[:, ::7] = x[:, :1]  # ties
    x[3, 5] = torch.nan
    engine = jitrt.compile(lambda x: x.sort(1, True), (x,), tune="exhaustive")
    values, positions = engine(x)
    expected = torch.sort(x, dim=1, descending=True, stable=True)
    torch.testing.assert_close(values, expected.values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(positions, expected.indices)


def test_positions_out_of_range_read_nothing_outside() -> None:
    x, index = torch.randn(8, 4).cuda(), torch.tensor([0, 7, 8, 2**40, -8, -9, -(2**40)]).cuda()
    engine = jitrt.compile(lambda x, index: x[index], (x, index % 8), tune="heuristic")
    assert torch.equal(engine(x, index), x[[0, 7, 7, 7, 0, 0, 0]])
