"""Every network of the issue, built without fallback and run on the GPU, against float32 PyTorch.

Tactics are the cost model's first guesses: this is about right answers, not speed. A wrong kernel shows as an error; so
does a NaN, since ‖NaN‖ is below no bound.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import jitrt  # noqa: E402
from jitrt.bench.measure import relative_error  # noqa: E402
from jitrt.bench.models import load_model, settle  # noqa: E402

MODELS = [
    "resnet18",
    "resnet50",
    "resnet152",
    "vgg19",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "densenet121",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "regnet_x_400mf",
    "resnext50_32x4d",
    "convnext_tiny",
]
BOUNDS = {"fp16": 5e-3, "fp32": 1e-5}


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_float32_pytorch(name: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    model, make_input = load_model(name)
    model = settle(model.cuda(), make_input(8, device="cuda"))
    errors = {}
    for batch in (1, 5):
        x = make_input(batch, device="cuda", seed=batch)
        with torch.no_grad():
            reference = model(x)
        for precision in BOUNDS:
            engine = jitrt.compile(model, (x,), precision=precision, tune="heuristic")
            errors[batch, precision] = relative_error(engine(x), reference)
            engine.close()
    print(name, {f"{p} b{b}": f"{e:.1e}" for (b, p), e in errors.items()})
    assert all(error < BOUNDS[precision] for (_, precision), error in errors.items()), errors
