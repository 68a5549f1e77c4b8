"""Real networks with random weights that behave: neither vanishing nor overflowing activations, the same every time."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn

from jitrt.bench.bert import Bert
from jitrt.errors import OptionError

MakeInput = Callable[..., torch.Tensor]

SETS: dict[str, tuple[str, ...]] = {
    "cnn": (
        *("resnet18", "resnet50", "resnet152", "vgg19", "googlenet", "inception_v3", "densenet121"),
        *("mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0", "efficientnet_b4", "resnext50_32x4d"),
        "convnext_tiny",
    ),
    "transformer": ("vit_b_16", "bert_base"),
}
"""Names that stand for several networks on the command line of `jitrt bench`."""

_OWN: dict[str, Callable[..., nn.Module]] = {"bert_base": Bert}
"""Networks that read tokens, and are not torchvision's."""
_LENGTH = 128  # tokens

# Networks that are not made for 224 x 224, and constructor arguments that skip minutes of initialisation.
_SIZES = {"inception_v3": 299}
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}
_library: torch.library.Library | None = None  # keeps the operators below defined


def torchvision_models() -> ModuleType:
    """`torchvision.models`, even where torchvision's own extension does not load.

    torchvision registers fake kernels for `torchvision::nms` and `torchvision::qnms` while it is imported, and fails if
    its extension (built for CUDA; torch here may be a CPU build) did not define them. Their signatures are all it
    needs: classification networks call neither.
    """
    global _library
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    _library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        _library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision.models")


def load_model(name: str, *, seed: int = 0, size: int | None = None, **arguments: Any) -> tuple[nn.Module, MakeInput]:
    """A torchvision classification network in eval mode with random weights, and a maker of inputs for it; or
    "bert_base", `jitrt.bench.bert.Bert`.

    `make_input(batch=1, dtype=torch.float32, device="cpu", seed=0)` returns standard normal images (batch, 3, size,
    size); `size` is the network's own unless given. Of bert_base it returns tokens (batch, size), by default 128 of
    them, whatever the dtype. `arguments` go to the network's constructor. Equal seeds give equal weights and inputs on
    every device. Raises OptionError for an unknown name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = (_OWN[name](**arguments) if name in _OWN else _torchvision(name, **arguments)).eval()
        _awaken(model)
    side = size or _SIZES.get(name, 224)

    def make_input(
        batch: int = 1, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", seed: int = 0
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(model, Bert):
            words = model.words.num_embeddings
            return torch.randint(0, words, (batch, size or _LENGTH), generator=generator).to(device)
        return torch.randn(batch, 3, side, side, generator=generator).to(device=device, dtype=dtype)

    return model, make_input


def _torchvision(name: str, **arguments: Any) -> nn.Module:
    models = torchvision_models()
    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, [*known, *_OWN], n=3) or ["resnet50", "mobilenet_v3_large"]
        raise OptionError(
            f"torchvision has no classification network {name!r}; did you mean {', '.join(close)}? (your own "
            "is module:callable)"
        )
    model: nn.Module = models.get_model(name, weights=None, **{**_ARGUMENTS.get(name, {}), **arguments})
    return model


def _awaken(model: nn.Module) -> None:
    """Random weights for a layer that is born with zeros, as a vision transformer's head is: its answer would say
    nothing."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not bool(module.weight.any()):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


def settle(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Scale a random model, in place, so that no activation vanishes or overflows; returns it in eval mode.

    One forward pass over the batch `x`: batch norms take their statistics from it, and their weights and biases are
    drawn near 1; every convolution and linear layer is rescaled to outputs of unit variance (layer-sequential unit
    variance, Mishkin and Matas 2016), which matters where no batch norm follows; ConvNeXt's layer scales, 1e-6 at
    birth, become 0.2 so that its blocks count.

    The biases matter: with biases of 0, batch norm and ReLU magnify every difference by up to 1.21 a layer (Yang et
    al., "A Mean Field Theory of Batch Normalization", 2019): float32's own rounding reaches 3e-4 at the end of
    ResNet-152, and PyTorch's own float16 is 3e-2 off at the end of ResNet-50. With 1 a disturbance of the input by 1e-3
    neither grows nor dies (measured at the output: 2e-4 for ResNet-50, 1e-3 for Inception-v3, 2e-3 for GoogLeNet).
    """
    model.eval()
    generator = torch.Generator().manual_seed(0)
    handles = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            handles.append(module.register_forward_pre_hook(_take_statistics))
        elif isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            handles.append(module.register_forward_hook(_unit_variance))
    try:
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                    module.weight.copy_(1 + 0.1 * torch.randn(module.weight.shape, generator=generator))
                    module.bias.copy_(1 + 0.1 * torch.randn(module.bias.shape, generator=generator))
            for name, parameter in model.named_parameters():
                if name.endswith("layer_scale"):
                    parameter.fill_(0.2)
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return model


def _take_statistics(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """Let a batch norm's statistics be those of this input.

    A channel that hardly varies in this batch (two pixels of a small image may be alike by chance) would be magnified
    out of all proportion by the next, so no variance is taken below a tenth of the layer's mean one.
    """
    var, mean = torch.var_mean(inputs[0].float(), [0, *range(2, inputs[0].dim())], correction=0)
    norm.running_mean.copy_(mean)  # type: ignore[operator]
    norm.running_var.copy_(var.clamp(min=float(var.mean()) / 10))  # type: ignore[operator]


def _unit_variance(layer: nn.Module, _: Any, output: torch.Tensor) -> torch.Tensor:
    """Rescale a layer so that this output has a standard deviation of 1."""
    spread = float(output.float().std())
    if not spread > 0:
        return output
    for parameter in layer.parameters(recurse=False):
        parameter.div_(spread)
    return output / spread
