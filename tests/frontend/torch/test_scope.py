"""In-place operators: a write is seen through every tensor that shares the storage, and through no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from jitrt.errors import ImportFailure, UnsupportedOpError
from jitrt.frontend.torch import import_torch
from jitrt.frontend.torch.arrays import from_numpy
from jitrt.graph import interpret

Result = Any


def relu_in_place(x: torch.Tensor) -> Result:
    y = x + 1
    return y.relu_(), y


def chain(x: torch.Tensor) -> Result:
    y = x * 2
    y += 1
    y *= y
    y.clamp_(0, 3).sub_(0.5)
    return y


def keeps_its_dtype(x: torch.Tensor) -> Result:
    y = x.half()
    y += x  # the sum is float32; the tensor stays half
    return y


def broadcasts_into(x: torch.Tensor) -> Result:
    y = x * 1
    y += y[:1].clone()
    return y.mul_(torch.tensor(2.0))


def base_sees_view(x: torch.Tensor) -> Result:
    y = x * 1
    y.view(-1).relu_()
    return y


def view_sees_base(x: torch.Tensor) -> Result:
    y = x * 1
    flat, turned = y.view(-1), y.permute(1, 0, 2)
    y.relu_()
    return flat, turned, y


def sibling_views(x: torch.Tensor) -> Result:
    y = x * 1
    head, tail, last = y[:, :2], y[:, 1:], y[..., -1]
    head += 10
    return head, tail, last, y


def slice_assignment(x: torch.Tensor) -> Result:
    y = x.clone()
    y[:, 1:3] = 7
    y[0, 0] = x[1, 1]
    y[..., -1] += 0.5
    return y


def chunks(x: torch.Tensor) -> Result:
    y = x * 1
    a, b = y.chunk(2, 2)
    a.mul_(2)
    b.copy_(a)
    return y, a, b


def clone_is_apart(x: torch.Tensor) -> Result:
    y = x * 1
    z = y.clone()
    w = y.view(-1).clone()
    y.zero_()
    return y, z, w


def clone_written_to(x: torch.Tensor) -> Result:
    y = x * 1
    z = y.clone()
    z.view(-1)[2:5].fill_(9)
    return y, z


def contiguous_that_copies(x: torch.Tensor) -> Result:
    y = (x * 1).transpose(1, 2)
    z = y.contiguous()
    z.relu_()
    return y, z


def contiguous_that_does_not(x: torch.Tensor) -> Result:
    y = x * 1
    z = y.contiguous()
    z.relu_()
    return y, z


def reshape_that_copies(x: torch.Tensor) -> Result:
    y = (x * 1).transpose(1, 2)
    y.reshape(-1).relu_()
    return y


def across_no_grad(x: torch.Tensor) -> Result:
    y = x * 1
    view = y[0]
    with torch.enable_grad():  # its own graph in the trace, as the rest runs without gradients
        y.relu_()
        z = y[1] * 2
        z += 1
    view.add_(1)
    return y, view, z


def written_twice_through_views(x: torch.Tensor) -> Result:
    y = x * 1
    y[0][1] = 5
    y[:, 1][0] = y[1, 1] + 1
    return y


def rows_apart(x: torch.Tensor) -> Result:
    """A positional encoding, and rows between rows."""
    y = torch.zeros(4, 6)
    y[:, 0::2], y[:, 1::2] = x[0, :, :3].sin(), x[0, :, :3].cos()
    z = x * 1
    z[:, ::2, 1::3] = 7
    z[:, 1::2][1] += y[:2]
    z[1, 5::2] = 1  # none
    return y, z, z[:, 0]


FUNCTIONS = [
    rows_apart,
    relu_in_place,
    chain,
    keeps_its_dtype,
    broadcasts_into,
    base_sees_view,
    view_sees_base,
    sibling_views,
    slice_assignment,
    chunks,
    clone_is_apart,
    clone_written_to,
    contiguous_that_copies,
    contiguous_that_does_not,
    reshape_that_copies,
    across_no_grad,
    written_twice_through_views,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_writes_mean_what_they_mean_in_torch(function: Callable[[torch.Tensor], Result]) -> None:
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = function(x.clone())
    imported = import_torch(function, (x,))
    got = imported.outputs.build([from_numpy(a) for a in interpret(imported.graph, [x.numpy()])])
    torch.testing.assert_close(got, expected)


def test_a_write_that_nobody_shares_costs_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten()).eval()
    graph = import_torch(model, (torch.randn(1, 3, 5, 5),)).graph
    assert [node.op.name for node in graph.nodes] == ["conv", "add", "batch_norm", "relu", "reshape"]


@pytest.mark.parametrize("write", [lambda x: x.relu_(), lambda x: x[0].add_(1), lambda x: x.detach().view(-1).zero_()])
def test_writing_to_an_input_is_refused(write: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(ImportFailure, match=r"changes a model input or a buffer in place.*clone"):
        import_torch(write, (torch.randn(2, 3),))


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


def test_writing_to_a_buffer_is_refused_with_the_line() -> None:
    with pytest.raises(
        ImportFailure, match=r"aten\.add_\.Tensor at test_scope\.py:\d+ changes a model input or a buffer"
    ):
        import_torch(Counter().eval(), (torch.randn(2),))


def test_a_write_through_a_diagonal_is_refused() -> None:
    def no_diagonal(x: torch.Tensor) -> torch.Tensor:
        y = x * 1
        y.diagonal().zero_()
        return y

    with pytest.raises(UnsupportedOpError, match=r"in-place, through a view that jitrt cannot follow.*test_scope\.py"):
        import_torch(no_diagonal, (torch.randn(4, 4),))
