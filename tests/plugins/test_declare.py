"""Declaring plugins: what each kind means, does and refuses. Kernels run in the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import planted_plugins
import pytest
import torch
import triton
import triton.language as tl

import jitrt
from jitrt.compiler import Options
from jitrt.errors import KernelError, PluginError, ShapeError
from jitrt.frontend.torch import import_torch
from jitrt.graph import Graph, TensorType, f16, f32, f64, i32, interpret
from jitrt.graph.ops import Add, Relu
from jitrt.graph.text import parse, to_text
from jitrt.kernels.base import Template, accepts, templates
from jitrt.testing import check_plugin, check_problem, compiles, make_problem, plan_interpreted
from jitrt.tune.verify import make_trial


@triton.jit
def nothing(x, out):
    tl.store(out, tl.load(x))


@triton.jit
def no_result(x):
    tl.load(x)


@triton.jit
def no_aux(x, out, STORE: tl.constexpr):
    tl.store(out, tl.load(x))


@triton.jit
def stranger(x, out, SIZE: tl.constexpr):
    tl.store(out, tl.load(x))


def one(types: dict[str, TensorType], name: str, **attributes: Any) -> Graph:
    body = Graph("region")
    values = [body.add_input(label, type) for label, type in types.items()]
    body.mark_output(body.add(jitrt.plugins.find(name).op(**attributes), *values))
    return body


# -- right ones --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_a_kernel_agrees_with_its_reference(dtype: str) -> None:
    check_plugin("planted::swish_add", (3, 137), (3, 137), dtype=dtype)


def test_a_kernel_that_stores_itself_has_attributes_and_a_shape_of_its_own() -> None:
    check_plugin("planted::row_sum", (5, 37), power=2)
    assert one({"x": TensorType(f32, (5, 37))}, "planted::row_sum").outputs[0].type == TensorType(f32, (5,))


def test_an_elementwise_one_broadcasts_and_promotes() -> None:
    check_plugin("planted::squash", (3, 1, 5), (4, 1), scale=0.5)
    body = one({"x": TensorType(f16, (3, 1)), "y": TensorType(f32, (1, 4))}, "planted::squash")
    assert body.outputs[0].type == TensorType(f32, (3, 4))


def test_a_template_may_be_a_plugin_and_takes_any_strides_it_accepts() -> None:
    check_plugin("planted::scale_rows", (7, 45), (7,), dtype="f16")
    body = one({"x": TensorType(f32, (7, 45)), "s": TensorType(f32, (7,))}, "planted::scale_rows")
    check_problem(make_problem(body, strides={"x": (1, 7)}), templates()["planted::scale_rows"])


@pytest.mark.parametrize("name", ["planted::swish_add", "planted::scale_rows"])
def test_what_follows_runs_in_its_epilogue_also_into_a_slice(name: str) -> None:
    types = {
        "planted::swish_add": {"x": TensorType(f16, (5, 30)), "y": TensorType(f16, (5, 30))},
        "planted::scale_rows": {"x": TensorType(f16, (5, 30)), "s": TensorType(f16, (5,))},
    }
    body = one(types[name], name)
    bias = body.add_input("bias", TensorType(f16, (30,)))
    result = body.add(Relu(), body.add(Add(), body.outputs.pop(), bias))
    body.mark_output(result)
    assert accepts(body) is None
    template = templates()[name]
    check_problem(make_problem(body, strides={result.name: (64, 1)}), template)
    compiles(make_problem(body), template, targets=(90,))


def test_a_kernel_that_stores_itself_takes_neither_epilogue_nor_strides() -> None:
    body = one({"x": TensorType(f32, (5, 30))}, "planted::row_sum")
    template = templates()["planted::row_sum"]
    assert template.accepts(body) is None
    body.inputs[0].type = make_problem(body, strides={"x": (1, 5)}).body.inputs[0].type
    assert template.accepts(body) == "planted::row_sum reads dense row-major operands"
    body = one({"x": TensorType(f32, (5, 30))}, "planted::row_sum")
    body.mark_output(body.add(Relu(), body.outputs.pop()))
    assert "a parameter STORE would give it an epilogue" in (template.accepts(body) or "")


def test_a_whole_model_with_plugins_of_every_kind() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)
            self.linear = torch.nn.Linear(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.ops.planted.swish_add(self.conv(x), x.mean(1, keepdim=True).expand(-1, 6, -1, -1).contiguous())
            y = torch.ops.planted.scale_rows(self.linear(torch.relu(y).mean((2, 3))), y[:, 0, 0, 0].contiguous())
            total = torch.ops.planted.row_sum(y, power=2)
            return torch.ops.planted.squash(y, total[:, None], 0.5) + 1

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 3, 5, 7)
    wanted = model(x).detach().numpy()
    graph = import_torch(model, (x,)).graph
    np.testing.assert_allclose(interpret(graph, [x.numpy()])[0], wanted, rtol=1e-5, atol=1e-5)
    for precision, bound in (("fp32", 1e-5), ("fp16", 5e-3)):
        planned = plan_interpreted(graph, Options(precision=precision))
        (got,) = planned.run([x.numpy()])
        assert np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < bound
    # The one that is declared for float32 alone stays in it, and the report says so.
    told = [decision.text for decision in jitrt.explain(model, (x,), precision="fp16").report]
    assert "planted::row_sum stays in f32: it has no f16 kernel" in told


@pytest.mark.parametrize("name", ["double", "swish_add"])
def test_between_convolutions_and_in_a_concat_it_gets_and_gives_what_it_wants(name: str) -> None:
    operator = getattr(torch.ops.planted, name)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(16, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.first(x)
            z = operator(y) if name == "double" else operator(y, y)
            return self.last(torch.cat([z, torch.relu(y)], 1))

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(2, 3, 5, 7)
    (got,) = plan_interpreted(import_torch(model, (x,)).graph).run([x.numpy()])
    np.testing.assert_allclose(got, model(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    told = str(jitrt.explain(model, (x,)).report)
    assert f"a copy before planted::{name}: planted::{name} reads dense row-major operands" in told
    copied = "an operand of concat is copied: no kernel could use it there: planted::double writes a dense row-major"
    assert (copied in told) == (name == "double")


# -- wrong ones --------------------------------------------------------------------------------------------------------


def test_a_wrong_kernel_is_refused_with_the_first_element_that_differs() -> None:
    with pytest.raises(KernelError, match=r"1 of 300 elements \(first at \[0, 77\]: expected .*, got 1000\)"):
        check_plugin("planted::wrong", (1, 300))


def test_a_kernel_that_writes_out_of_bounds_is_caught_and_the_process_survives() -> None:
    with pytest.raises(KernelError, match="outside its output, the first at element 240"):
        check_plugin("planted::beyond", (240,))
    for name in ("planted::beyond", "planted::stray"):
        with pytest.raises(KernelError, match="the kernel wrote far outside its tensors, the first at element"):
            check_plugin(name, (20,))
    check_plugin("planted::swish_add", (3, 5), (3, 5))


def test_a_reference_of_another_shape_than_declared_is_an_error() -> None:
    body = one({"x": TensorType(f32, (4, 3))}, "planted::bends")
    with pytest.raises(PluginError, match=r"makes \[1, 3\] of operands for which its shape is declared as \[4, 3\]"):
        interpret(body, [np.zeros((4, 3), np.float32)])
    with pytest.raises(PluginError, match=r"makes \[1, 3\], declared is \[4, 3\]"):
        torch.ops.planted.bends(torch.zeros(4, 3))


def test_a_reference_that_raises_or_returns_no_tensor_is_named() -> None:
    jitrt.plugin("test::raises", reference=lambda x: x.nothing(), elementwise=True)(nothing)
    jitrt.plugin("test::pair", reference=lambda x: (x, x), elementwise=True)(nothing)
    for name, complaint in (
        ("test::raises", "reference of test::raises raises Attr"),
        ("test::pair", "not one tensor"),
    ):
        with pytest.raises(PluginError, match=complaint):
            interpret(one({"x": TensorType(f32, (4,))}, name), [np.zeros(4, np.float32)])


def test_operands_that_do_not_fit_are_shape_errors() -> None:
    for types, complaint in (
        ({"x": TensorType(f64, (4, 3))}, "x is f64; its kernel is declared for f32"),
        ({"x": TensorType(f32, (4, 3)), "y": TensorType(f32, (4, 3))}, "takes x; got 2 operands"),
        ({"x": TensorType(f32, ())}, "declared for"),
    ):
        if types["x"].rank or types["x"].dtype == f64:
            with pytest.raises(ShapeError, match=complaint):
                one(types, "planted::row_sum")
    with pytest.raises(ShapeError, match=r"shapes \[\[3\], \[4\]\] do not broadcast"):
        one({"x": TensorType(f32, (3,)), "y": TensorType(f32, (4,))}, "planted::squash")


@pytest.mark.parametrize(
    ("options", "kernel", "complaint"),
    [
        ({"name": "swish"}, nothing, "'namespace::name'"),
        ({}, lambda x: x, "put @triton.jit below it"),
        ({}, dict, "no subclass of"),
        ({"grid": None}, nothing, "a kernel needs `grid`"),
        ({"elementwise": True}, nothing, "an elementwise plugin has no grid"),
        ({"dtypes": ("float16",)}, nothing, "dtypes names 'float16'"),
        ({}, no_result, "no parameter `out`"),
        ({}, no_aux, "`STORE` and `aux`"),
        ({}, stranger, "parameters SIZE, for which there is neither"),
        ({"grid": 7}, stranger, "grid is 7; give a function, such as grid=lambda x"),
        ({"sizes": {"SIZE": 4}}, stranger, "sizes is {'SIZE': 4}; give a function"),
        ({"configs": {"SIZE": 4}}, stranger, "configs is {'SIZE': 4}; give dicts, such as"),
        ({"configs": []}, stranger, r"configs is \[\]; give dicts"),
        ({"reference": torch.sigmoid}, nothing, "must be a Python function"),
        ({"reference": lambda *x: x}, nothing, r"takes \*x"),
        ({"reference": lambda x, how=None: x}, nothing, "the default of how is a NoneType"),
        ({"reference": lambda: 1}, nothing, "takes no tensor"),
        ({"reference": lambda x, out: x}, nothing, "a parameter out; rename"),
        ({"reference": lambda x, source=1: x}, nothing, "cannot be called source"),
        ({"dtype": "float32"}, nothing, "dtype of test::bad gives 'float32'; dtypes are 'f64', 'f32'"),
    ],
)
def test_declarations_that_do_not_hold_together(options: dict[str, Any], kernel: Any, complaint: str) -> None:
    given = {"name": "test::bad", "reference": lambda x: x, "grid": lambda x: 1, **options}
    with pytest.raises(PluginError, match=complaint):
        jitrt.plugin(given.pop("name"), **given)(kernel)
    assert jitrt.plugins.lookup("test::bad") is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"grid": lambda z: 1}, "grid of test::late takes z, but is offered x, out"),
        ({"grid": lambda x: 0}, "gives 0; one to three whole numbers"),
        ({"grid": lambda x: x.shape[9]}, "grid of test::late raises IndexError"),
        ({"sizes": lambda x: {"M": 1}}, "parameters SIZE; nothing gives them"),
        ({"configs": lambda x: []}, "has no configurations"),
        ({"grid": lambda x: 2.5}, "gives 2.5; one to three whole numbers"),
        ({"sizes": lambda x: 4}, "sizes of test::late gives 4; a dict"),
    ],
)
def test_declarations_that_fail_when_used(options: dict[str, Any], complaint: str) -> None:
    given: dict[str, Any] = {"grid": lambda x: 1, "sizes": lambda x: {"SIZE": 4}, **options}
    jitrt.plugin("test::late", reference=lambda x: x, **given)(stranger)
    with pytest.raises(PluginError, match=complaint):
        check_plugin("test::late", (4,))


@pytest.mark.parametrize("shape", [3, (-1,), (2.5,), "ab", None])
def test_a_shape_that_is_none_is_refused(shape: Any) -> None:
    jitrt.plugin("test::shaped", reference=lambda x: x, shape=lambda x: shape, elementwise=True)(nothing)
    with pytest.raises(ShapeError, match=r"shape of test::shaped gives .*; a tuple of whole numbers, none negative"):
        one({"x": TensorType(f32, (4,))}, "test::shaped")


def test_a_dtype_that_is_none_is_refused() -> None:
    jitrt.plugin("test::typed", reference=lambda x: x, dtype=lambda x: "half", elementwise=True)(nothing)
    with pytest.raises(ShapeError, match="dtype of test::typed gives 'half'; dtypes are"):
        one({"x": TensorType(f32, (4,))}, "test::typed")


@pytest.mark.parametrize(
    ("default", "right", "wrong"),
    [
        (1, [2, np.int64(2), 2.0], [1.5, "2", None, [2]]),
        (1.0, [2, np.float32(0.5)], ["2", None]),
        (False, [True, 1, 0], ["False", 2, None]),
        ("a", ["b"], [1, None]),
    ],
)
def test_an_attribute_keeps_its_type_and_its_value(default: Any, right: list[Any], wrong: list[Any]) -> None:
    plugin = jitrt.plugin("test::attributed", reference=lambda x, how=default: x, elementwise=True)(nothing)
    for value in right:
        made = plugin.op(how=value).attributes["how"]
        assert made == value and type(made) is type(default)
    for value in wrong:
        with pytest.raises(PluginError, match=r"test::attributed: how is .+; by its default, "):
            plugin.op(how=value)


def test_a_reference_that_is_not_the_same_every_time_excuses_no_kernel() -> None:
    with pytest.raises(KernelError, match="the reference gives other numbers each time"):
        check_plugin("planted::random", (300,))
    trial = make_trial(make_problem(one({"x": TensorType(f32, (300,))}, "planted::random")))
    assert "the reference gives other numbers each time" in (trial.check(2 * trial.operands[0]) or "")


def test_a_number_is_no_operand_of_a_kernel() -> None:
    body = Graph("region")
    x = body.add_input("x", TensorType(f32, (4,)))
    body.mark_output(body.add(jitrt.plugins.find("planted::swish_add").op(), x, body.scalar(1.0, f32)))
    reason = templates()["planted::swish_add"].accepts(body)
    assert reason == "y is a plain number: make it an attribute of planted::swish_add"


# -- registry, text, keys ----------------------------------------------------------------------------------------------


def test_finding_plugins() -> None:
    assert jitrt.plugins.find("planted::swish_add") is planted_plugins.swish_add
    assert jitrt.plugins.find_onnx("planted", "swish_add") is planted_plugins.swish_add
    assert jitrt.plugins.find_onnx("ai.onnx", "swish_add") is None
    with pytest.raises(PluginError, match="did you mean 'planted::swish_add'"):
        jitrt.plugins.find("planted::swish_ad")
    with pytest.raises(PluginError, match="import the module that defines it"):
        jitrt.plugins.find("else::where")
    with pytest.raises(PluginError, match="no attribute beta; it has: scale"):
        planted_plugins.squash.op(beta=1)


def test_the_text_of_a_graph_holds_the_digest_and_parses_back() -> None:
    body = one({"x": TensorType(f32, (4, 3))}, "planted::row_sum", power=3)
    text = to_text(body)
    assert f"planted::row_sum(%x) <power=3, source='{planted_plugins.row_sum.definition.digest}'>" in text
    assert parse(text) == body
    with pytest.raises(jitrt.errors.GraphError, match="of another source"):
        parse(text.replace(planted_plugins.row_sum.definition.digest, "0" * 32))


def test_one_that_is_declared_again_takes_the_place_of_the_first() -> None:
    first = jitrt.plugin("test::again", reference=lambda x: x + 1, elementwise=True)(nothing)
    assert torch.ops.test.again(torch.zeros(1)).item() == 1
    second = jitrt.plugin("test::again", reference=lambda x: x + 2, elementwise=True)(nothing)
    assert torch.ops.test.again(torch.zeros(1)).item() == 2
    assert second.op().plugin is second  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="was defined anew"):
        first.op()
    third = jitrt.plugin("test::again", reference=lambda x, by=3.0: x + by, elementwise=True)(nothing)
    assert third(torch.zeros(1), by=4.0).item() == 4
    assert torch.ops.test.again(torch.zeros(1)).item() == 3


def test_an_integer_result_and_a_result_that_shares_memory_with_its_operand() -> None:
    jitrt.plugin("test::same", reference=lambda x: x, dtype="i32", elementwise=True)(nothing)
    x = torch.arange(3.0)
    y = torch.ops.test.same(x)
    assert y.dtype == torch.int32
    jitrt.plugin("test::itself", reference=lambda x: x, elementwise=True)(nothing)
    y = torch.ops.test.itself(x)
    y += 1
    assert x.tolist() == [0, 1, 2]
    assert one({"x": TensorType(f32, (3,))}, "test::same").outputs[0].type == TensorType(i32, (3,))


def test_only_a_template_with_a_name_is_offered() -> None:
    with pytest.raises(PluginError, match="that has a name"):
        jitrt.kernel(Template)
