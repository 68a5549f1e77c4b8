"""What the importer makes of whole models: names, constants, locations, structure, and every refusal."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from jitrt.errors import GradientError, ImportFailure, InputError, TrainingModeError, UnsupportedOpError
from jitrt.frontend.torch import Imported, import_torch
from jitrt.frontend.torch.arrays import from_numpy, to_numpy
from jitrt.frontend.torch.capture import captured_modules, is_tracing
from jitrt.graph import Layout, f16, f32, interpret, verify
from jitrt.graph.text import parse


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        y = self.features(x)
        return self.head(y.mean((2, 3))) * scale


X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def evaluate(imported: Imported, *inputs: torch.Tensor) -> Any:
    outputs = interpret(imported.graph, [to_numpy(x) for x in inputs])
    return imported.outputs.build([from_numpy(a) for a in outputs])


def test_names_of_graph_inputs_constants_and_nodes() -> None:
    graph = import_torch(small(), (X,)).graph
    assert graph.name == "Small"
    assert [v.name for v in graph.inputs] == ["x"]
    assert {"features.0.weight", "features.0.bias", "features.1.running_mean", "head.weight"} <= set(graph.constants)
    assert "features.1.num_batches_tracked" not in graph.constants  # nobody reads it
    assert graph.constants["features.0.bias"].type.shape == (4, 1, 1)
    names = [v.name for node in graph.nodes for v in node.outputs]
    assert {"conv2d", "batch_norm", "relu", "mean", "linear"} <= set(names)
    assert import_torch(small(), (X,), name="classifier").graph.name == "classifier"


def test_the_text_form_round_trips() -> None:
    graph = import_torch(small(), (X,)).graph
    digests = {v.digest: v.data for v in graph.constants.values()}
    assert parse(str(graph), digests) == graph


def test_locations_are_the_users_lines_and_modules() -> None:
    graph = import_torch(small(), (X,)).graph
    line = Small.forward.__code__.co_firstlineno
    found = {node.op.name: node.loc for node in graph.nodes}
    assert found["conv"] == f"test_importer.py:{line + 1} (features.0)"
    assert found["reduce_mean"] == f"test_importer.py:{line + 2}"
    assert found["linear"] == f"test_importer.py:{line + 2} (head)"


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2  # the line that a location must name, not that of its caller


def test_locations_name_the_innermost_line() -> None:
    graph = import_torch(lambda x: doubled(x) + 1, (X,)).graph
    line = doubled.__code__.co_firstlineno + 1
    assert graph.nodes[0].loc == f"test_importer.py:{line}"


def test_positional_keyword_and_nested_inputs_have_their_names() -> None:
    def model(x: torch.Tensor, pair: Any, *rest: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
        return x + pair[0] * pair[1]["deep"] + rest[0], mask, options["extra"]

    x = torch.randn(2, 3)
    args = (x, (x + 1, {"deep": x + 2}), x + 3)
    imported = import_torch(model, args, {"extra": x + 5, "mask": x + 4})
    assert [v.name for v in imported.graph.inputs] == ["x", "pair_0", "pair_1_deep", "rest_0", "options_extra", "mask"]
    got = evaluate(imported, *imported.inputs.leaves)
    torch.testing.assert_close(got, model(*args, mask=x + 4, extra=x + 5))


def test_arguments_that_are_no_tensors_are_frozen() -> None:
    model = small()
    torch.testing.assert_close(evaluate(import_torch(model, (X,), {"scale": 3.0}), X), model(X, scale=3.0))


def test_unused_inputs_are_kept() -> None:
    graph = import_torch(lambda x, unused: x + 1, (X, X)).graph
    assert [v.name for v in graph.inputs] == ["x", "unused"]
    verify(graph)


@dataclass
class Output:
    logits: torch.Tensor
    extras: Any = None


def test_outputs_keep_their_nesting() -> None:
    def model(x: torch.Tensor) -> Any:
        return Output(x + 1, {"pair": (x, [x * 2, None, 3])})

    imported = import_torch(model, (X,))
    assert imported.structure == {
        "logits": {"output": 0},
        "extras": {"pair": [{"output": 1}, [{"output": 2}, None, 3]]},
    }
    got = evaluate(imported, X)
    assert isinstance(got, Output)
    assert isinstance(got.extras["pair"], tuple)
    assert torch.equal(got.logits, X + 1)


def test_an_output_that_is_neither_tensor_nor_json_is_refused() -> None:
    with pytest.raises(ImportFailure, match="neither tensor nor JSON"):
        import_torch(lambda x: (x + 1, torch.float32), (X,))


def test_an_input_or_a_weight_may_be_an_output() -> None:
    model = small()
    imported = import_torch(lambda x: (x, model.head.weight, x + 1), (X,))
    got = evaluate(imported, X)
    assert torch.equal(got[0], X)
    assert torch.equal(got[1], model.head.weight)


# -- weights ---------------------------------------------------------------------------------------------------------


def test_one_storage_is_imported_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight
            self.convs = nn.ModuleList([nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)])
            self.convs[1].bias = self.convs[0].bias

        def forward(self, x: torch.Tensor, z: torch.Tensor) -> Any:
            return self.b(self.a(x)), self.convs[0](z), self.convs[1](z)

    graph = import_torch(Tied().eval(), (torch.randn(2, 4), torch.randn(1, 2, 3, 3))).graph
    reads = sorted((v.type.shape, len(v.uses)) for v in graph.constants.values())
    assert reads == [((3, 1, 1), 2), ((3, 2, 1, 1), 1), ((3, 2, 1, 1), 1), ((4, 4), 2)]


def test_the_graph_does_not_follow_later_changes_of_the_weights() -> None:
    model = small()
    imported = import_torch(model, (X,))
    before = evaluate(imported, X)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(evaluate(imported, X), before)


def test_sixteen_bit_weights_keep_their_bits() -> None:
    for dtype, kind in ((torch.bfloat16, ml_dtypes.bfloat16), (torch.float16, np.float16)):
        model = small().to(dtype)
        imported = import_torch(model, (X.to(dtype),))
        weight = imported.graph.constants["head.weight"].data
        assert weight is not None
        assert weight.dtype == kind
        assert torch.equal(from_numpy(weight), model.head.weight)
        scale = next(v for v in imported.graph.constants.values() if v.type.shape == ())
        assert scale.type.dtype.numpy == kind  # a Python number in the tensor's dtype
        torch.testing.assert_close(evaluate(imported, X.to(dtype)), model(X.to(dtype)), rtol=0.05, atol=0.05)


def test_gradients_of_parameters_do_not_matter() -> None:
    model = small()
    assert model.head.weight.requires_grad
    assert torch.is_grad_enabled()
    torch.testing.assert_close(evaluate(import_torch(model, (X,)), X), model(X))


# -- functions -------------------------------------------------------------------------------------------------------


GLOBAL = small()
OFFSET = torch.randn(5)


def uses_a_global(x: torch.Tensor) -> torch.Tensor:
    return GLOBAL(x) + OFFSET


@torch.inference_mode()
def in_inference_mode(x: torch.Tensor) -> torch.Tensor:
    return GLOBAL(x)


def without_gradients(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = GLOBAL(x)
    with torch.enable_grad():
        return y * 2


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = small()

    def features(self, x: torch.Tensor, scale: float) -> torch.Tensor:
        return self.inner.features(x) * scale


HOLDER = Holder().eval()
FUNCTIONS = [
    uses_a_global,
    in_inference_mode,
    without_gradients,
    lambda x: HOLDER.features(x, 2.0),
    functools.partial(HOLDER.features, scale=3.0),
    small().forward,
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: getattr(f, "__name__", type(f).__name__))
def test_functions_bring_their_modules_along(function: Any) -> None:
    imported = import_torch(function, (X,))
    assert len(imported.graph.inputs) == 1
    torch.testing.assert_close(evaluate(imported, X), function(X))


def test_weights_of_a_functions_module_have_its_name() -> None:
    model = small()
    assert "model.head.weight" in import_torch(lambda x: model(x), (X,)).graph.constants
    assert "GLOBAL.head.weight" in import_torch(uses_a_global, (X,)).graph.constants
    assert list(captured_modules(HOLDER.features)) == ["self"]


def test_modules_in_containers_become_constants_too() -> None:
    models = [small()]
    torch.testing.assert_close(evaluate(import_torch(lambda x: models[0](x), (X,)), X), models[0](X))


def test_importing_leaves_the_model_as_it_was() -> None:
    model = small()
    model.features[1].train()
    model.train(False)
    modes = [m.training for m in model.modules()]
    import_torch(model, (X,))
    assert [m.training for m in model.modules()] == modes
    assert not is_tracing()


def test_tracing_is_known_to_the_traced() -> None:
    seen = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(is_tracing())
        return x + 1

    import_torch(model, (X,))
    assert set(seen) == {True}


# -- kinds of inputs -------------------------------------------------------------------------------------------------


class OnlyDlpack:
    """A tensor that shows nothing but the DLPack protocol."""

    def __init__(self, tensor: torch.Tensor):
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


@pytest.mark.parametrize("kind", [lambda x: x, lambda x: x.numpy(), OnlyDlpack], ids=["torch", "numpy", "dlpack"])
def test_examples_of_any_kind(kind: Any) -> None:
    model = small()
    imported = import_torch(model, (kind(X),))
    torch.testing.assert_close(evaluate(imported, X), model(X))


def test_bfloat16_examples_in_numpy() -> None:
    array = X.numpy().astype(ml_dtypes.bfloat16)
    graph = import_torch(small().bfloat16(), (array,)).graph
    assert graph.inputs[0].type.dtype.numpy == ml_dtypes.bfloat16


def test_a_channels_last_example_gives_the_input_that_layout() -> None:
    graph = import_torch(small(), (X.to(memory_format=torch.channels_last),)).graph
    assert graph.inputs[0].type.layout == Layout((108, 1, 18, 3))
    assert import_torch(small(), (X,)).graph.inputs[0].type.layout is None
    assert import_torch(small(), (X.transpose(2, 3),)).graph.inputs[0].type.layout is None


def test_an_empty_batch_is_imported() -> None:
    model = small()
    imported = import_torch(model, (X[:0],))
    assert evaluate(imported, X[:0]).shape == (0, 5)


def test_promotion_is_pytorchs() -> None:
    graph = import_torch(lambda x: (x.half() * 2, x.half() * 2.5, x * 2), (X,)).graph
    scalars = [v for v in graph.constants.values() if v.type.shape == ()]
    assert [v.type.dtype for v in scalars] == [f16, f16, f32]


# -- refusals --------------------------------------------------------------------------------------------------------


def test_all_unsupported_operators_are_listed_with_counts_and_lines() -> None:
    def model(x: torch.Tensor) -> Any:
        y = torch.logcumsumexp(x, 1)
        z = torch.linalg.det(torch.logcumsumexp(y, 1) @ y.mT)
        w, where = F.max_pool2d(x, 2, return_indices=True)
        return (y + z.sum()).view(torch.int16), where, w

    line = model.__code__.co_firstlineno
    with pytest.raises(UnsupportedOpError) as caught:
        import_torch(model, (X,))
    listed = {name: (count, where) for name, count, where in caught.value.ops}
    assert listed["aten.logcumsumexp.default"] == (2, f"test_importer.py:{line + 1}")
    transform = next(name for name in listed if name.startswith("aten.linalg_det.default (made of aten._linalg_det"))
    assert listed[transform] == (1, f"test_importer.py:{line + 2}")
    positions = "return_indices=True: the positions of the maxima have no kernel"
    assert listed[f"aten.max_pool2d_with_indices.default {positions}"] == (1, f"test_importer.py:{line + 3}")
    (variant,) = (name for name in listed if name.startswith("aten.view.dtype of f32 as i16"))
    assert listed[variant] == (1, f"test_importer.py:{line + 4}")
    assert "aten.logcumsumexp.default (x2)" in str(caught.value)


def test_an_operator_whose_sizes_depend_on_values_is_named_without_what_follows_from_it() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        chosen = x[x > 0] + 1
        return torch.relu(chosen.reshape(-1, 1) @ x.reshape(1, -1)).sum(0) + torch.logcumsumexp(x.flatten(), 0)

    with pytest.raises(UnsupportedOpError) as caught:
        import_torch(model, (X,))
    listed = [name.split(":")[0] for name, _, _ in caught.value.ops]
    assert listed == ["aten.index.Tensor by a mask", "aten.logcumsumexp.default"]


REFUSED = {
    "dropout_p=0.5": lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5),
    "elements would split or join": lambda x: x.view(torch.int16),
    "bags whose lengths differ": lambda x: F.embedding_bag(torch.arange(6), x[0, 0], torch.tensor([0, 1, 4])),
    "return_indices=True": lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True),
    "of i64: elements of more than 32 bits": lambda x: x.long().sort(0)[0],
    "of the best 2000 of 5000 elements": lambda x: x.flatten().repeat(100)[:5000].topk(2000)[0],
    "by a mask": lambda x: x[x > 0],
    "in training mode": lambda x: torch.ops.aten.rrelu(x, 0.1, 0.3, True),
    "antialias=True of u8": lambda x: F.interpolate(x.byte(), size=(7, 7), mode="bilinear", antialias=True),
    "fewer elements than its correction": lambda x: x[:1].var(0),
    "scatter.src of rank 0": lambda x: x[0, 0, 0, 0].scatter(0, torch.tensor([0]), x[0, 0, 0, :1]),
    "by mean": lambda x: x.scatter_reduce(0, x.long() * 0, x, "mean"),
    "by sum without what was there": lambda x: x.scatter_reduce(0, x.long() * 0, x, "sum", include_self=False),
    "other than with one value for all": lambda x: torch.ops.aten.index_put(x, [x > 0], x[0, 0, 0, :1], True),
}


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.filterwarnings("ignore:var")
def test_a_variant_that_is_not_supported_says_which(reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=reason):
        import_torch(REFUSED[reason], (X,))


@pytest.mark.parametrize(
    "model",
    [
        Small().train(),
        nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)).train(),
        lambda x: F.dropout(x, 0.5),
    ],
    ids=["batch norm", "dropout", "functional"],
)
def test_training_mode_is_refused(model: Any) -> None:
    with pytest.raises(TrainingModeError, match=r"model\.eval\(\)") as caught:
        import_torch(model, (X,))
    assert isinstance(caught.value, ImportFailure)
    assert isinstance(caught.value, GradientError)


def test_training_mode_without_effect_is_no_matter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).train()
    torch.testing.assert_close(evaluate(import_torch(model, (X,)), X), model(X))


def branches(x: torch.Tensor) -> torch.Tensor:
    if x.sum() > 0:
        return x
    return -x


def test_a_branch_on_values_is_refused_with_its_line() -> None:
    line = branches.__code__.co_firstlineno + 1
    with pytest.raises(
        ImportFailure, match=rf"test_importer\.py:{line} in branches: if x\.sum\(\) > 0:\n.*torch\.where"
    ):
        import_torch(branches, (X,))


def test_what_the_model_prints_is_kept_and_what_torch_dumps_is_not(capfd: pytest.CaptureFixture[str]) -> None:
    def talks(x: torch.Tensor) -> torch.Tensor:
        print("hello", file=sys.stderr)
        return branches(x)

    with pytest.raises(ImportFailure):
        import_torch(talks, (X,))
    assert set(capfd.readouterr().err.strip().splitlines()) == {"hello"}


def test_shapes_that_do_not_fit_are_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportFailure, match="same reduction dim"):
        import_torch(nn.Linear(7, 3).eval(), (torch.ones(2, 5),))
    assert capfd.readouterr().err == ""


def leaves_torch(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(x.numpy() + 1)


def test_a_failure_of_tracing_names_the_line_and_keeps_the_cause() -> None:
    with pytest.raises(ImportFailure, match=r"cannot trace leaves_torch: .*\n  at test_importer\.py:\d+") as caught:
        import_torch(leaves_torch, (X,))
    assert caught.value.__cause__ is not None


def test_a_wrong_call_of_the_model_is_an_import_failure() -> None:
    with pytest.raises(ImportFailure, match="cannot trace Small"):
        import_torch(small(), (X[:, :2],))


def test_model_and_input_on_different_devices() -> None:
    with pytest.raises(ImportFailure, match=r"model Small is on cpu and input 0 on meta; move one of them.*'meta'"):
        import_torch(small(), (X.to("meta"),))
    for example in (X, X.to("meta")):
        with pytest.raises(ImportFailure, match=r"Small is on meta, where weights have no values; .*to_empty"):
            import_torch(small().to("meta"), (example,))


def test_a_dtype_that_the_graph_has_no_name_for() -> None:
    with pytest.raises(ImportFailure, match=r"no dtype for torch\.complex64"):
        import_torch(lambda x: x + 1, (X.to(torch.complex64),))


def test_an_object_that_is_no_tensor_cannot_become_a_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ImportFailure, match="a Generator: only tensors"):
        import_torch(lambda x: x + torch.rand(6, generator=generator), (X,))


class Parametrised(nn.Module):
    """Whose weights are computed by operators without importers, of weights and of nothing."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.turn = nn.utils.parametrizations.orthogonal(nn.Linear(6, 6))

    def forward(self, x: torch.Tensor) -> Any:
        window = torch.hann_window(6, device=x.device)
        order = (window * 10).long().sort(descending=True)[1]  # of 64-bit integers, whose sort has no kernel
        return self.turn(x * window), x[..., order], torch.logcumsumexp(window.view(2, 3), 0)


def test_what_depends_on_no_input_is_computed_at_import() -> None:
    model = Parametrised().eval()
    imported = import_torch(model, (X,))
    got = imported.outputs.build([from_numpy(a) for a in interpret(imported.graph, [X.numpy()])])
    torch.testing.assert_close(got, model(X))
    with pytest.raises(UnsupportedOpError, match=r"aten\.rand\.default"):
        import_torch(lambda x: x + torch.rand(6), (X,))
    with pytest.raises(UnsupportedOpError, match="linalg_inv"):  # of a matrix that has none
        import_torch(lambda x: x @ torch.linalg.inv(torch.zeros(6, 6)), (X,))
    with pytest.raises(UnsupportedOpError, match="to_sparse"):
        import_torch(lambda x: torch.sparse.mm(torch.eye(6).to_sparse(), x[0, 0].t()), (X,))


def test_an_exported_program_is_a_model() -> None:
    model = small()
    program = torch.export.export(model, (X,))
    torch.testing.assert_close(evaluate(import_torch(program, (X,)), X), model(X))


def test_transforms_of_functions() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: row * row.sum())(x) + torch.func.jvp(torch.sin, (x,), (x,))[1]

    torch.testing.assert_close(evaluate(import_torch(model, (X,)), X), model(X))


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (lambda x: x, (X.to_sparse(),), "sparse_coo tensor.*to_dense"),
        (lambda x: x, (torch.nested.nested_tensor([X[0], X[1]]),), "nested tensor.*to_padded_tensor"),
        (lambda x: x, (np.ones(2, ">f4"),), "byte order"),
        (lambda x: x, (np.array(["a"]),), "an input, a ndarray, cannot become a tensor"),
    ],
    ids=["sparse", "nested", "byte order", "strings"],
)
def test_inputs_that_are_no_dense_arrays_of_numbers(model: Any, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        import_torch(model, inputs)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda x: {1, 2}, "the model's result is a set"),
        (nn.Linear(6, 3).eval().double(), r"x is f32, w is f64.*convert the inputs or the model.*precision='fp16'"),
        (lambda x, y: x, "Do the arguments fit the model"),
        (torch.jit.script(nn.Linear(6, 3).eval()), "TorchScript.*give the Python module"),
        (lambda x: x.to_sparse().to_dense(), "aten.to_sparse"),
    ],
    ids=["set", "two types", "missing argument", "script", "sparse inside"],
)
def test_what_is_wrong_with_the_model_is_said(model: Any, message: str) -> None:
    with pytest.raises((ImportFailure, UnsupportedOpError), match=f"(?s){message}"):
        import_torch(model, (X,))


def test_a_bug_in_an_importer_names_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise IndexError("7")

    monkeypatch.setattr("jitrt.frontend.torch.importer.importer_of", lambda target: broken)
    with pytest.raises(
        ImportFailure, match=r"aten\.add\.Tensor at test_importer\.py:\d+ failed with IndexError: 7.*bug"
    ):
        import_torch(lambda x: x + 1, (X,))
