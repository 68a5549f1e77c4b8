"""Complex numbers inside models: pairs of real tensors in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fft, nn

import jitrt
from jitrt.compiler import Options
from jitrt.errors import ImportFailure, UnsupportedOpError
from jitrt.frontend.torch import import_torch
from jitrt.frontend.torch.arrays import from_numpy
from jitrt.graph import interpret
from jitrt.testing import plan_interpreted

torch.manual_seed(0)
X, Y = torch.randn(2, 6, 8), torch.randn(2, 6, 8)


def as_complex(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))


class Rotary(nn.Module):
    """Llama's, with the angles in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(9.0), 0.3 ** torch.arange(4))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: torch.Tensor, at: torch.Tensor) -> Any:
        first = torch.view_as_real(as_complex(x) * self.turns[2:8].unsqueeze(0)).flatten(2)
        return first, torch.view_as_real(as_complex(x) * self.turns[at]).flatten(2)


class Spectral(nn.Module):
    """A Fourier neural operator's layer: some modes of x, mixed, the others 0."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(6, 5, 3, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modes = fft.rfft(x)
        out = torch.zeros(x.shape[0], 5, modes.shape[-1], dtype=torch.complex64)
        out[..., :3] = torch.einsum("bim,iom->bom", modes[..., :3], self.mix)
        out[:, 1] *= 2j
        return fft.irfft(out, n=x.shape[-1])


def arithmetic(x: torch.Tensor, y: torch.Tensor) -> Any:
    a, b = as_complex(x), torch.complex(x, y)[..., :4]
    made = [a * b, a * x[..., :4], a * 2, 1j * a, a / b, a / 2, 3 / a, a + b, a - 1, a.add(b, alpha=2), a + x[..., :4]]
    made += [a.conj() * b, -a, torch.exp(a), a @ b.mT, torch.polar(x.abs(), y), a.sum(1), b.mean((0, 1))]
    made += [
        torch.stack([a, b]),
        torch.cat([a, x[..., :4]], 1),
        a.unbind(1)[2],
        a.transpose(0, 1).reshape(-1),
        a[:, 1:4:2],
    ]
    return [torch.view_as_real(c.resolve_conj()) for c in made] + [a.real, b.imag, a.abs(), b.angle()]


def transforms(x: torch.Tensor, y: torch.Tensor) -> Any:
    c = torch.complex(x, y)
    made = [fft.fft(x), fft.fft(c, dim=1), fft.ifft(c), fft.rfft(x, n=5), fft.fft(c, n=11, norm="forward")]
    made += [fft.fft2(c, norm="ortho"), fft.ifft2(c, norm="ortho"), fft.rfft2(x), fft.fftn(c), fft.rfftn(x, dim=(0, 2))]
    made += [fft.fftshift(fft.fft(x))]
    back = [
        fft.irfft(fft.rfft(x), n=7),
        fft.irfft2(fft.rfft2(x, norm="forward"), norm="forward"),
        fft.irfftn(fft.rfftn(x)),
    ]
    return [torch.view_as_real(made) for made in made] + back


def sound(x: torch.Tensor) -> Any:
    rows = x.reshape(2, 48)
    options: dict[str, Any] = {"return_complex": True}
    plain = torch.stft(rows, 16, 4, window=torch.hann_window(16), **options).abs()
    short = torch.stft(rows[0], 16, 5, 12, center=False, normalized=True, window=torch.hann_window(12), **options)
    return plain, torch.view_as_real(short)


CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "rotary": (Rotary(), (X, torch.tensor([5, 1, 0, 8, 2, 2]))),
    "spectral": (Spectral(), (X,)),
    "arithmetic": (arithmetic, (X, Y)),
    "transforms": (transforms, (X, Y)),
    "sound": (sound, (X,)),
}


@pytest.mark.parametrize("name", CASES)
def test_models(name: str) -> None:
    model, inputs = CASES[name]
    with torch.no_grad():
        expected = model(*inputs)
    imported = import_torch(model, inputs)
    got = imported.outputs.build([from_numpy(a) for a in interpret(imported.graph, [x.numpy() for x in inputs])])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["rotary", "spectral"])
def test_plans(name: str) -> None:
    model, inputs = CASES[name]
    planned = plan_interpreted(import_torch(model, inputs).graph, Options())
    outputs = planned.run([x.numpy() for x in inputs])
    with torch.no_grad():
        expected = model(*inputs)
    for got, wanted in zip(outputs, expected if isinstance(expected, tuple) else [expected], strict=True):
        torch.testing.assert_close(torch.from_numpy(got), wanted, rtol=1e-4, atol=1e-4)


def test_a_graph_of_dynamos() -> None:
    model, inputs = CASES["rotary"]
    fast = torch.compile(model, backend="jitrt", options={"target": "reference", "strict": True})
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), model(*inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (lambda x: fft.fft(x), (X,), ImportFailure, r"returns complex numbers.*view_as_real"),
        (lambda x: x * 2, (as_complex(X),), ImportFailure, r"complex64.*Give torch\.view_as_real\(x\)"),
        (lambda x: as_complex(x).cumprod(0).real, (X,), UnsupportedOpError, "cumprod.*of complex numbers"),
        (lambda x: fft.fft(x, n=5000).real, (X,), UnsupportedOpError, "5000 points"),
        (lambda x: torch.stft(x[0], 8, onesided=False, return_complex=True).real, (X,), UnsupportedOpError, "one side"),
    ],
)
def test_refusals(model: Any, inputs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        import_torch(model, inputs)


def test_a_write_to_what_is_seen_as_real_and_as_complex_is_refused() -> None:
    def both(x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        c = as_complex(y)
        y.mul_(2)
        return c.abs()

    with pytest.raises(UnsupportedOpError, match="seen as complex numbers and as real ones"):
        jitrt.compile(both, (X,), target="reference")
