"""Recurrent layers on a real GPU: every candidate right, and whole networks as PyTorch has them.

Programs of the resident kernel wait for each other: one that waits in vain stops after seconds, with an error.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from torch import nn  # noqa: E402

import jitrt  # noqa: E402
from jitrt.codegen.target import target_of  # noqa: E402
from jitrt.frontend.torch import import_torch  # noqa: E402
from jitrt.graph import DType, f16, f32  # noqa: E402
from jitrt.graph.ops import Recurrence  # noqa: E402
from jitrt.tune.progress import Event  # noqa: E402
from jitrt.tune.select import select  # noqa: E402
from tests.kernels.test_recurrence import problem  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("own_cache")]

STEPS, HIDDEN = 128, 512
BOTH = (False, True)
PROBLEMS = {
    "lstm, batch 1": problem(Recurrence("lstm"), STEPS, 1, HIDDEN),
    "lstm, batch 32": problem(Recurrence("lstm"), STEPS, 32, HIDDEN),
    "lstm, batch 32, both, c": problem(Recurrence("lstm", BOTH, cell=True), STEPS, 32, HIDDEN, turned=True),
    "lstm, batch 300, two launches": problem(Recurrence("lstm"), 16, 300, HIDDEN),
    "lstm of 1024, batch 8": problem(Recurrence("lstm"), 32, 8, 1024),
    "lstm of 2048: too large for registers": problem(Recurrence("lstm"), 8, 2, 2048),
    "gru, batch 1": problem(Recurrence("gru"), STEPS, 1, HIDDEN),
    "gru, batch 32": problem(Recurrence("gru"), STEPS, 32, HIDDEN),
    "gru, bfloat16, back": problem(Recurrence("gru", (True,)), 50, 17, 200, DType.bf16),
    "gru, float32": problem(Recurrence("gru"), 16, 5, 100, f32),
    "lstm of few units, float32": problem(Recurrence("lstm"), 64, 3, 40, f32),
    "tanh, odd": problem(Recurrence("tanh", BOTH), 20, 3, 37, f16),
    "relu": problem(Recurrence("relu"), 20, 3, 64, f16),
}


def test_every_candidate_is_right() -> None:
    events: list[Event] = []
    choices = select(list(PROBLEMS.values()), target_of(90), mode="exhaustive", device=0, progress=events.append)
    refused = [e.text for e in events if e.record is not None and e.record.reason is not None]
    for (name, posed), choice in zip(PROBLEMS.items(), choices, strict=True):
        steps = posed.body.inputs[0].type.shape[0]
        print(f"{name:38} {choice.microseconds:8.1f} us {choice.microseconds / steps:6.2f} a step  {choice.tactic}")
    print("\n".join(refused))
    assert not [text for text in refused if "spill" not in text]


MODELS = [
    (nn.LSTM, {"num_layers": 2}, 1),
    (nn.LSTM, {"num_layers": 2}, 32),
    (nn.LSTM, {"bidirectional": True, "batch_first": True}, 32),
    (nn.LSTM, {"num_layers": 2, "proj_size": 128}, 8),
    (nn.GRU, {"num_layers": 2}, 1),
    (nn.GRU, {"num_layers": 2, "bidirectional": True}, 32),
    (nn.RNN, {"nonlinearity": "tanh"}, 4),
]


@pytest.mark.parametrize(("kind", "options", "batch"), MODELS)
def test_agrees_with_pytorch(kind: type[nn.Module], options: dict[str, object], batch: int) -> None:
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    major, minor = torch.cuda.get_device_capability()
    model = kind(HIDDEN, HIDDEN, **options).cuda().eval()
    x = torch.randn((batch, STEPS, HIDDEN) if options.get("batch_first") else (STEPS, batch, HIDDEN), device="cuda")
    with torch.no_grad():
        y, last = model(x)
    expected = [y, *(last if isinstance(last, tuple) else (last,))]
    graph = import_torch(model, (x,)).graph
    # Built as on a machine without this GPU: the first guess, the resident kernel, whatever its time.
    engine = jitrt.compile(graph, precision="fp16", target=f"sm_{major}{minor}", cache=False)
    for run in range(3):  # again and again over the same memory: nothing must be left of the run before
        for got, want in zip(engine(x), expected, strict=True):
            error = float((got - want).norm() / want.norm())
            assert error < 5e-3, (run, error)
    engine.close()


def test_an_infinite_weight_at_batch_one() -> None:
    """A product has eight columns, of which one item fills one: infinity times the zeros beside it is no number."""
    torch.manual_seed(0)
    major, minor = torch.cuda.get_device_capability()
    model = nn.RNN(64, 64).eval()
    with torch.no_grad():
        model.weight_hh_l0[5, 7] = torch.inf
        x, h0 = torch.randn(16, 1, 64), torch.full((1, 1, 64), 0.5)
        y, _ = model(x, h0)
    assert y.isfinite().all()
    assert (y[:, 0, 5].abs() == 1).all()
    graph = import_torch(model, (x, h0)).graph
    engine = jitrt.compile(graph, precision="fp16", target=f"sm_{major}{minor}", cache=False)
    got = next(iter(engine(x.cuda(), h0.cuda()))).cpu()
    assert float((got - y).norm() / y.norm()) < 5e-3
    engine.close()
