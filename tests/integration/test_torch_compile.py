"""torch.compile(model, backend="jitrt"): same answers, engines where possible, a report of what stayed in PyTorch."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jitrt.errors import (
    CompileError,
    GradientError,
    JitrtWarning,
    NoGpuError,
    OptionError,
    TrainingModeError,
    UnsupportedOpError,
)
from jitrt.integrations.torch_compile import jitrt_backend, last_report, reports

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
REFERENCE = {"target": "reference"}
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Small(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer1 = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x: torch.Tensor, exotic: bool = False) -> Any:
        y = self.layer1(x)
        if exotic:
            y = torch.logcumsumexp(y, 1)
        y = F.dropout(F.silu(y), 0.5, self.training)
        z = self.norm(self.head(y))
        z[:, 0] = 3
        first, second = F.gelu(z).chunk(2, 1)
        if exotic:
            second = second.scatter_reduce(1, (0 * second).long(), second, "amax", include_self=False)
        return first, second


def small(seed: int = 0) -> Small:
    return Small(seed).eval()


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def compiled(model: Any, **options: Any) -> Any:
    return torch.compile(model, backend=jitrt_backend, options={**REFERENCE, **options})


def test_the_whole_graph_in_one_engine() -> None:
    model = small()
    fast = compiled(model)
    close(fast(X), model(X))
    close(fast(X + 1), model(X + 1))
    report = last_report()
    assert report is not None
    assert (report.engines, report.stayed) == (1, ())
    assert "nothing left to PyTorch" in repr(report)
    assert reports()[-1] is report


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.read = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.read(x)[0])
        return y


@pytest.mark.parametrize("allowed", [False, True])
def test_dynamo_passes_a_recurrent_layer_on_if_it_is_told_to(allowed: bool) -> None:
    """As the README says: without allow_rnn the backend is not even called."""
    model, x, before = Tagger().eval(), torch.randn(2, 5, 8), last_report()
    with torch.no_grad(), torch._dynamo.config.patch(allow_rnn=allowed):
        close(compiled(model)(x), model(x))
    report = last_report()
    assert (report is not before) == allowed
    if allowed:
        assert report is not None
        assert (report.engines, report.stayed) == (1, ())


@pytest.mark.skipif(
    not any(p.name == "jitrt" for p in importlib.metadata.entry_points(group="torch_dynamo_backends")),
    reason="jitrt is not installed, so its entry points cannot be found",
)
def test_the_backend_is_found_by_name() -> None:
    model = small()
    close(torch.compile(model, backend="jitrt", options=REFERENCE)(X), model(X))
    assert "jitrt" in torch._dynamo.list_backends()


def test_precision_is_passed_on() -> None:
    model = small()
    (got, _), (expected, _) = compiled(model, precision="fp16")(X), model(X)
    assert 1e-6 < (got - expected).norm() / expected.norm() < 5e-3


def test_weights_have_their_modules_names() -> None:
    built: list[Any] = []

    def backend(module: Any, inputs: Any) -> Any:
        run = jitrt_backend(module, inputs, options=REFERENCE)
        built.append(run)
        return run

    torch.compile(small(), backend=backend)(X)
    (run,) = built
    ((step, _),) = run._runs.values()
    engine = next(cell.cell_contents for cell in step.__closure__ if hasattr(cell.cell_contents, "graph"))
    assert [value.name for value in engine.graph.inputs] == ["x"]
    assert {"layer1.0.weight", "head.weight"} <= set(engine.graph.constants)
    assert any("layer1.0" in node.loc for node in engine.graph.nodes)
    assert any(node.loc.startswith("test_torch_compile.py:") for node in engine.graph.nodes)


# -- what changes between calls ----------------------------------------------------------------------------------------


def test_new_shapes_and_numbers() -> None:
    model = small()
    fast = compiled(model)
    for batch in (2, 3, 4):  # from the second on, Dynamo hands over a dynamic size
        x = X[:1].expand(batch, -1, -1, -1)
        close(fast(x), model(x))

    dynamic = torch.compile(model, backend=jitrt_backend, options=REFERENCE, dynamic=True)
    for batch in (2, 3, 5):
        x = torch.randn(batch, 3, 8, 8)
        close(dynamic(x), model(x))

    scale = compiled(lambda x, k: (x * k, x.shape[0] * k))
    for k in (2.0, 3.0, 4.0):  # from the second on, a tensor that is read as a number
        close(scale(X, k), (X * k, 2 * k))


def test_changed_and_replaced_weights_are_noticed() -> None:
    model = small()
    fast = compiled(model)
    close(fast(X), model(X))
    with torch.no_grad():
        model.head.bias.add_(1)
        model.layer1[1].running_mean.add_(0.5)
    close(fast(X), model(X))
    model.head.weight = nn.Parameter(model.head.weight.detach() * 2)
    close(fast(X), model(X))


def test_two_modules_of_one_class_do_not_share_weights() -> None:
    a, b = small(0), small(1)
    fast_a, fast_b = compiled(a), compiled(b)
    for _ in range(2):
        close(fast_a(X), a(X))
        close(fast_b(X), b(X))


def test_inference_tensors() -> None:
    with torch.inference_mode():
        model = small()
        close(compiled(model)(X * 1), model(X))


# -- operators jitrt does not know -------------------------------------------------------------------------------------


def test_unknown_operators_stay_in_pytorch_and_are_reported() -> None:
    model = small()
    fast = compiled(model)
    line = Small.forward.__code__.co_firstlineno
    with pytest.warns(JitrtWarning, match=r"2 in PyTorch.*\n.*\n.*aten\.(logcumsumexp|scatter_reduce)"):
        close(fast(X, True), model(X, True))
    close(fast(X + 1, True), model(X + 1, True))
    report = last_report()
    assert report is not None
    assert report.engines == 2
    assert report.nodes > 8
    stayed = {s.operator: s for s in report.stayed}
    assert set(stayed) == {"aten.logcumsumexp.default", "aten.scatter_reduce.two"}
    assert stayed["aten.logcumsumexp.default"].reason == "no importer"
    assert stayed["aten.logcumsumexp.default"].location == f"test_torch_compile.py:{line + 3}"
    assert stayed["aten.scatter_reduce.two"].reason == "by amax without what was there"
    assert all(s.count == 1 and s.milliseconds > 0 for s in report.stayed)
    assert 0 < report.share < 1
    assert report.milliseconds > sum(s.milliseconds for s in report.stayed)
    assert "<table>" in report._repr_html_()


def test_a_partition_does_not_write_to_what_others_read() -> None:
    def model(x: torch.Tensor) -> Any:
        y = torch.logcumsumexp(x, 0)
        z = y.relu_()
        w = torch.logcumsumexp(z + 1, 0).view(-1)
        w[:3] = 0
        return y, z, w, x.transpose(1, 2).logcumsumexp(0).transpose(1, 2) * 2

    fast = compiled(model)
    with pytest.warns(JitrtWarning):
        close(fast(X), model(X))


def test_indices_of_a_maximum_keep_the_maximum_in_pytorch() -> None:
    def model(x: torch.Tensor) -> Any:
        values, indices = F.max_pool2d(x * 2, 2, return_indices=True)
        return values + 1, indices

    with pytest.warns(JitrtWarning, match=r"aten\.max_pool2d_with_indices"):
        close(compiled(model)(X), model(X))


def test_strict_refuses_unknown_operators() -> None:
    with pytest.raises(UnsupportedOpError, match=r"aten\.logcumsumexp\.default"):
        compiled(small(), strict=True)(X, True)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + self.calls


def test_a_graph_that_writes_to_a_buffer_runs_in_pytorch_as_a_whole() -> None:
    model = Counter().eval()
    fast = compiled(model)
    with pytest.warns(JitrtWarning, match="leaves a graph to PyTorch.*in place"):
        close(fast(X), X + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(fast(X), X + 2)
    report = last_report()
    assert report is not None
    assert report.engines == 0
    assert "in place" in report.stayed[0].reason


def test_unknown_operators_and_a_write_to_a_buffer() -> None:
    class Both(Counter):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).logcumsumexp(0)

    with pytest.warns(JitrtWarning, match="leaves a graph to PyTorch.*in place"):
        close(compiled(Both().eval())(X), (X + 1).logcumsumexp(0))


def test_graph_breaks_make_a_report_each() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        torch._dynamo.graph_break()
        return y + 1

    before = len(reports())
    close(compiled(model)(X), X * 2 + 1)
    assert len(reports()) == before + 2


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"tarjet": "reference"}, {"precision": "int4"}, {"tune": "never"}, {"specialisations": 3}, {"outputs": ["x"]}],
    ids=str,
)
def test_unknown_options_raise_value_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:
        torch.compile(small(), backend=jitrt_backend, options=options)(X)
    assert isinstance(caught.value, OptionError)


def test_an_unknown_mode_raises_value_error() -> None:
    with pytest.raises(ValueError, match=r"mode is 'fast'.*'max-autotune'"):
        torch.compile(small(), backend=jitrt_backend, mode="fast")(X)


@NO_GPU
@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune", None])
def test_known_modes_are_taken_and_without_a_gpu_pytorch_runs(mode: str | None) -> None:
    model = small()
    with pytest.warns(JitrtWarning, match="no NVIDIA GPU.*runs the model as it is"):
        close(torch.compile(model, backend=jitrt_backend, mode=mode)(X), model(X))


@NO_GPU
def test_without_a_gpu_strict_is_an_error() -> None:
    with pytest.raises(NoGpuError, match=r"options=\{'target': 'reference'\}"):
        torch.compile(small(), backend=jitrt_backend, options={"strict": True})(X)


def test_an_input_with_a_gradient_is_refused() -> None:
    x = X.clone().requires_grad_()
    fast = compiled(small())
    with pytest.raises(GradientError, match=r"input .* requires a gradient"):
        fast(x)
    with torch.no_grad():
        close(fast(x), small()(x))


def test_training_mode_is_refused() -> None:
    with pytest.raises(TrainingModeError, match=r"model\.eval\(\)") as caught:
        compiled(Small().train())(X)
    assert isinstance(caught.value, GradientError)


def test_a_layer_without_a_kernel_leaves_the_graph_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*args: Any, **options: Any) -> Any:
        raise CompileError("1 region(s) have no kernel\nUse torch.compile(model, backend='jitrt').")

    monkeypatch.setattr("jitrt.request.Request.engine", no_kernel)
    x = torch.randn(2, 3, 8, 8)
    with pytest.warns(JitrtWarning, match=r"leaves a graph to PyTorch: 1 region\(s\) have no kernel$"):
        close(compiled(small())(x), small()(x))
    with pytest.raises(CompileError):
        compiled(small(), strict=True)(x)


def test_a_part_without_inputs_is_of_tensors() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(torch.arange(6).float() * 2, x)

    x = torch.tensor([[3.0, -1.0], [20.0, 4.0]])
    with pytest.warns(JitrtWarning, match="searchsorted"):
        close(compiled(model)(x), model(x))


def test_an_encoder_layer_is_known_as_the_one_operator_that_it_is_at_inference() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x, padding = torch.randn(2, 5, 16), torch.arange(5).expand(2, 5) >= torch.tensor([[3], [4]])
    with torch.no_grad():
        close(compiled(layer)(x, src_key_padding_mask=padding), layer(x, src_key_padding_mask=padding))
    report = last_report()
    assert report is not None
    assert (report.engines, report.stayed) == (1, ())


def test_an_output_that_is_a_view_of_an_input_shares_its_memory() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        turned, part = x.t(), x[1:].view(-1)
        y = x * 2
        torch._dynamo.graph_break()
        turned.add_(1)
        part.mul_(3)
        return x + y

    x = torch.randn(3, 4)
    expected_x = x.clone()
    expected = model(expected_x)
    close(compiled(model)(x), expected)
    close(x, expected_x)
