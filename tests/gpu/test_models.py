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
from jitrt.frontend.torch import import_torch  # noqa: E402

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
    "efficientnet_b4",
    "densenet121",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "regnet_x_400mf",
    "resnext50_32x4d",
    "convnext_tiny",
    "vit_b_16",
    "bert_base",
]
BOUNDS = {"fp16": 5e-3, "fp32": 1e-5}


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_float32_pytorch(name: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    major, minor = torch.cuda.get_device_capability()
    model, make_input = load_model(name)
    settle(model.cuda(), make_input(8, device="cuda"))
    errors = {}
    for batch in (1, 5):
        x = make_input(batch, device="cuda", seed=batch)
        with torch.no_grad():
            reference = model(x)
        graph = import_torch(model, (x,)).graph
        for precision in BOUNDS:
            # Built as on a machine without this GPU: nothing is measured, so it takes seconds.
            engine = jitrt.compile(graph, precision=precision, target=f"sm_{major}{minor}", cache=False)
            errors[f"{precision} batch {batch}"] = relative_error(engine(x), reference)
            engine.close()
    print(name, {what: f"{error:.1e}" for what, error in errors.items()})
    assert all(error < BOUNDS[what.split()[0]] for what, error in errors.items()), errors
