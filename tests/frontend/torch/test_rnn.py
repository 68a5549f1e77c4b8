"""Recurrent layers from PyTorch: the graph's numbers against PyTorch's own, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from jitrt.errors import ImportFailure, ShapeError, TrainingModeError
from jitrt.frontend.torch.arrays import from_numpy, to_numpy
from jitrt.frontend.torch.importer import import_torch
from jitrt.frontend.torch.registry import Unsupported, importers
from jitrt.graph import Graph, TensorType, f16, f32, interpret
from jitrt.graph.ops import Linear, Recurrence
from jitrt.graph.text import parse, to_text

T, B, INPUTS, H = 5, 3, 8, 12


def outputs(result) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [t for part in result for t in outputs(part)]


def compare(model, *args) -> Graph:
    """The graph of a model, checked against it on random weights and `args`."""
    model = model.eval()
    graph = import_torch(model, args).graph
    arrays = [to_numpy(t) for arg in args for t in outputs(arg)]
    expected = outputs(model(*args))
    for got, want in zip(interpret(graph, arrays, exact=True), expected, strict=True):
        np.testing.assert_allclose(got, want.detach().float().numpy(), rtol=2e-5, atol=2e-5)
    return graph


def kinds(graph: Graph, op: type) -> list:
    return [node.op for node in graph.nodes if isinstance(node.op, op)]


@pytest.mark.parametrize(("bidirectional", "batch_first"), [(False, False), (True, True)])
@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.LSTM, {}),
        (nn.LSTM, {"proj_size": 5}),
        (nn.LSTM, {"bias": False}),
        (nn.GRU, {}),
        (nn.GRU, {"bias": False}),
        (nn.RNN, {"nonlinearity": "relu"}),
        (nn.RNN, {}),
    ],
)
def test_layers(layer, options, bidirectional, batch_first):
    torch.manual_seed(0)
    model = layer(INPUTS, H, num_layers=2, bidirectional=bidirectional, batch_first=batch_first, dropout=0.1, **options)
    x = torch.randn((B, T, INPUTS) if batch_first else (T, B, INPUTS))
    count = 4 if bidirectional else 2
    h = torch.randn(count, B, options.get("proj_size", H))
    graph = compare(model, x, (h, torch.randn(count, B, H)) if layer is nn.LSTM else h)
    assert len(kinds(graph, Recurrence)) == 2  # both directions in one
    if "proj_size" not in options:
        assert len(kinds(graph, Linear)) == 2  # the inputs of all steps and directions in one
    assert parse(to_text(graph), {v.digest: v.data for v in graph.constants.values()}) == graph


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_initial_states_may_be_left_out_and_so_may_the_batch(layer):
    model = layer(INPUTS, H, bidirectional=True)
    graph = compare(model, torch.randn(T, B, INPUTS))
    (node,) = (node for node in graph.nodes if isinstance(node.op, Recurrence))
    assert all(v.is_constant for v in node.inputs[1:])  # weights and zeros: there is nothing to prepare at run time
    compare(model, torch.randn(T, INPUTS))


def test_a_projection_that_begins_with_zeros_adds_nothing():
    assert len(kinds(compare(nn.LSTM(INPUTS, H, proj_size=5), torch.randn(T, B, INPUTS)), Linear)) == 2


@pytest.mark.parametrize("layer", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells(layer):
    h = torch.randn(B, H)
    compare(layer(INPUTS, H), torch.randn(B, INPUTS), (h, torch.randn(B, H)) if layer is nn.LSTMCell else h)


def test_only_what_is_read_of_an_lstm_is_made():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(INPUTS, H)

        def forward(self, x):
            return self.lstm(x)[0][-1]

    (op,) = kinds(compare(Last(), torch.randn(T, B, INPUTS)), Recurrence)
    assert not op.cell


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_layers_keep_their_type(dtype):
    model, x = nn.LSTM(INPUTS, H).to(dtype), torch.randn(T, B, INPUTS).to(dtype)
    graph = import_torch(model, (x,)).graph
    got = [from_numpy(a) for a in interpret(graph, [to_numpy(x)])]
    want = outputs(nn.LSTM.forward(model.float(), x.float()))
    assert all(g.dtype == dtype for g in got)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g.float(), w, rtol=0.03, atol=0.03)


def test_dropout_in_training_is_refused():
    with pytest.raises(TrainingModeError, match=r"dropout between recurrent layers.*eval"):
        import_torch(nn.GRU(INPUTS, H, num_layers=2, dropout=0.5).train(), (torch.randn(T, B, INPUTS),))


def test_a_wrong_initial_state_is_refused():
    with pytest.raises(ImportFailure, match=r"Expected hidden size \(1, 3, 12\), got \[2, 3, 12\]"):
        import_torch(nn.GRU(INPUTS, H), (torch.randn(T, B, INPUTS), torch.randn(2, B, H)))


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(INPUTS, H)

    def forward(self, x, *states):
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 4, 2]))
        return self.lstm(packed, states or None)[0].data


@pytest.mark.parametrize("states", [(), (torch.zeros(1, B, H), torch.zeros(1, B, H))])
def test_packed_sequences_are_refused(states):
    with pytest.raises(ImportFailure, match=r"test_rnn.py:\d+ in forward.*\n.*run the padded batch"):
        import_torch(Packed().eval(), (torch.randn(T, B, INPUTS), *states))


def test_the_operator_on_packed_sequences_is_refused_too():
    with pytest.raises(Unsupported, match="run the padded batch"):
        importers()["aten.gru.data"](None)


@pytest.mark.parametrize(
    ("op", "shapes", "complaint"),
    [
        (
            Recurrence("lstm"),
            [(5, 3, 48), (1, 48, 12), (1, 3, 12), (1, 2, 12)],
            "c0 is f32[1,2,12], expected [1, 3, 12]",
        ),
        (Recurrence("lstm"), [(5, 3, 48), (1, 48, 12), (2, 3, 12), (1, 3, 12)], "h0 is"),
        (Recurrence("lstm"), [(5, 3, 48), (1, 48, 12), (1, 3, 12)], "takes 4 operands, got 3"),
        (Recurrence("gru"), [(5, 3, 36), (1, 36, 12), (1, 3, 12), (12,)], "b is f32[12], expected [1, 12]"),
        (Recurrence("gru"), [(5, 3, 36), (1, 48, 12), (1, 3, 12), (1, 12)], "a gru has 3 rows for a hidden unit"),
        (Recurrence("gru", cell=True), [(5, 3, 36), (1, 36, 12), (1, 3, 12), (1, 12)], "a cell of kind gru has no c"),
        (Recurrence("tanh"), [(5, 3, 13), (1, 12, 12), (1, 3, 12)], "w wants 12 columns"),
        (Recurrence("tanh"), [(5, 12), (12, 12), (1, 3, 12)], "gates are f32[5,12], w is f32[12,12]"),
        (Recurrence("tanh", (False, True)), [(5, 3, 12), (1, 12, 12), (1, 3, 12)], "there are 2 directions"),
        (Recurrence("tanh", (True, True)), [(5, 3, 12), (1, 12, 12), (1, 3, 12)], "directions reversed"),
        (Recurrence("peephole"), [(5, 3, 12), (1, 12, 12), (1, 3, 12)], "there is no cell of kind 'peephole'"),
    ],
)
def test_operands_that_do_not_fit(op, shapes, complaint):
    with pytest.raises(ShapeError) as caught:
        op.infer(*(TensorType(f32, shape) for shape in shapes))
    assert complaint in str(caught.value)


def test_operands_of_two_types():
    types = [TensorType(f32, (5, 3, 12)), TensorType(f32, (1, 12, 12)), TensorType(f16, (1, 3, 12))]
    with pytest.raises(ShapeError, match="operands are f32, f32, f16"):
        Recurrence("tanh").infer(*types)
