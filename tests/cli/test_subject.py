"""What MODEL, --shape and --batch stand for, and every text that stands for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jitrt.cli.subject import Defined, batch_sizes, bench_subject, load_subject, one_batch, prepared
from jitrt.errors import ImportFailure, OptionError

MODULE = """
import torch
from torch import nn

net = nn.Linear(4, 3).train()
number = 7

class Space:
    inner = net

def bare():
    return nn.Embedding(2, 3).half()

def with_inputs():
    return nn.Linear(4, 3), (torch.arange(8.0).reshape(2, 4),)

def wrong():
    return "a model, honestly"

def network():
    import jitrt

    net = jitrt.Network("defined")
    net.mark_output(net.add_activation(net.add_input("x", (2, 4)), "relu"))
    return net

def one_input():
    return nn.Linear(4, 3), torch.arange(8.0).reshape(2, 4)

def nested_inputs():
    return nn.Linear(4, 3), ({"x": torch.ones(2, 4)},)

def predict(x, y, z=1):
    return x + y
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models_of_this_test.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)


def load(attribute: str, *shapes: str):  # type: ignore[no-untyped-def]
    return load_subject(f"my_models_of_this_test:{attribute}", shapes)


def test_a_module_object_and_a_shape() -> None:
    subject = load("net", "1x4")
    assert not subject.model.training
    (x,) = subject.inputs(5)
    assert x.shape == (5, 4)
    assert torch.equal(x, subject.inputs(5)[0])
    assert load("Space.inner", "1x4").model is subject.model


def test_a_function_and_an_integer_input() -> None:
    subject = load("bare", "1x6:i64")
    (tokens,) = subject.inputs(2)
    assert tokens.dtype == torch.int64
    assert tokens.max() <= 1
    assert subject.model(tokens).dtype == torch.float32


def test_a_function_that_brings_its_inputs() -> None:
    (x,) = load("with_inputs").inputs(3)
    assert torch.equal(x, torch.tensor([[0.0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]))
    assert torch.equal(load("one_input").inputs(3)[0], x)


def test_a_torchvision_name() -> None:
    subject = load_subject("squeezenet1_1", ["1x3x64x64"], settled=True)
    assert subject.model(*subject.inputs(2)).shape == (2, 1000)
    with pytest.raises(OptionError, match=r"squeezenet1_1 does not run on --shape 1x5x64x64: .*to have 3 channels"):
        load_subject("squeezenet1_1", ["1x5x64x64"], settled=True)


def test_a_network_has_its_own_shapes() -> None:
    subject = load("network")
    assert isinstance(subject, Defined)
    for batch in (1, 2):
        model, inputs = prepared(subject, batch, "fp16")
        assert model is subject.network
        assert inputs == ()
    with pytest.raises(OptionError, match=r"--batch is 3, but .* is a Network and has its own shapes; leave it out"):
        prepared(subject, 3, "fp32")
    with pytest.raises(OptionError, match=r"--shape is given, but .* is a Network and has its own"):
        load("network", "1x4")
    with pytest.raises(OptionError, match="is a Network, which PyTorch cannot run: jitrt build makes a plan of it"):
        bench_subject("my_models_of_this_test:network")
    assert bench_subject("my_models_of_this_test:net", ["1x4"]).name == "my_models_of_this_test:net"


def test_prepared_is_in_the_dtype_asked_for() -> None:
    model, (x,) = prepared(load("net", "1x4"), 2, "bf16")
    assert x.dtype == torch.bfloat16
    assert next(model.parameters()).dtype == torch.bfloat16
    _, (tokens,) = prepared(load("bare", "1x6:i32"), 2, "fp16")
    assert tokens.dtype == torch.int32


@pytest.mark.parametrize(
    ("attribute", "shapes", "message"),
    [
        ("net", (), "give --shape"),
        ("number", (), "is a int"),
        ("wrong", (), "returned a str"),
        ("predict", ("1x4",), "predict takes x, y; name a function without arguments"),
        ("nested_inputs", (), "returns inputs that are no tensors"),
        ("missing", (), "has no attribute 'missing'"),
        ("net", ("1,3",), "write it as"),
        ("net", ("1x3:f64",), "write it as"),
    ],
)
def test_refusals(attribute: str, shapes: tuple[str, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(attribute, *shapes)


def test_refused_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no module 'no_such_module'"):
        load_subject("no_such_module:f")
    with pytest.raises(OptionError, match="resnet50"):
        load_subject("resnet5o")
    with pytest.raises(OptionError, match=r"a\.plan is a plan, not a model; jitrt inspect shows it"):
        load_subject("a.plan")
    for half in (":net", "my_models_of_this_test:"):
        with pytest.raises(OptionError, match="names no callable; write it as module:callable"):
            load_subject(half)
    with pytest.raises(OptionError, match="no file"):
        load_subject("missing.onnx")
    with pytest.raises(OptionError, match=r"nets/small\.py is a file; .* as nets\.small:make_model"):
        load_subject("nets/small.py")
    (tmp_path / "m.onnx").write_bytes(b"\x08")
    with pytest.raises(ImportFailure, match="ONNX"):
        load_subject("m.onnx")
    with pytest.raises(OptionError, match="--shapes names inputs of an ONNX file, which resnet18 is not"):
        load_subject("resnet18", (), ["x:1x3"])


def test_batches() -> None:
    assert batch_sizes("1, 8,128") == [1, 8, 128]
    assert one_batch("4") == 4
    for bad in ("0", "", "1,,2", "-3", "many"):
        with pytest.raises(OptionError, match="--batch"):
            batch_sizes(bad)
    with pytest.raises(OptionError, match="one number"):
        one_batch("1,2")
