"""The benchmark's networks: the same every time, and settled."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from jitrt.bench.bert import Bert
from jitrt.bench.models import load_model, settle, torchvision_models
from jitrt.errors import OptionError


def test_torchvision_imports_although_its_extension_may_not_load() -> None:
    assert callable(torchvision_models().resnet18)
    assert torchvision_models() is torchvision_models()


def test_torchvision_imports_in_a_fresh_process() -> None:
    code = "from jitrt.bench.models import torchvision_models as m; print(m().resnet18.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "resnet18"


def test_equal_seeds_give_equal_weights_and_inputs() -> None:
    torch.manual_seed(123)
    state = torch.get_rng_state()
    (a, make_a), (b, make_b), (c, make_c) = (load_model("squeezenet1_1", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are untouched
    x = make_a(2)
    settle(a, x)
    settle(b, x)
    for (name, left), right in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
    assert not torch.equal(next(a.parameters()), next(c.parameters()))
    assert torch.equal(make_a(2), make_b(2))
    assert not torch.equal(make_c(2, seed=1), make_c(2, seed=2))


def test_inputs_have_the_networks_size_or_the_one_asked_for() -> None:
    assert load_model("squeezenet1_1")[1](1).shape == (1, 3, 224, 224)
    assert load_model("squeezenet1_1", size=64)[1](3, torch.float16).shape == (3, 3, 64, 64)
    assert load_model("squeezenet1_1", num_classes=7)[0](torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_bert_reads_tokens() -> None:
    model, make_input = load_model("bert_base", layers=1, width=8, heads=2, hidden=16, words=50)
    assert make_input(3, torch.float16).shape == (3, 128)
    tokens = make_input(3)
    assert tokens.dtype == torch.int64
    assert 0 <= int(tokens.min()) < int(tokens.max()) < 50
    settle(model, make_input(2))
    with torch.no_grad():
        y = model(tokens)
    assert y.shape == (3, 128, 8)
    assert load_model("bert_base", size=5, layers=1, words=9)[1](2).shape == (2, 5)


def test_bert_is_what_the_paper_says() -> None:
    """Beside PyTorch's own layer, with the same weights."""
    torch.manual_seed(0)
    ours = Bert(layers=1, width=12, heads=3, hidden=20, words=7, positions=9).eval()
    theirs = nn.TransformerEncoderLayer(12, 3, 20, activation="gelu", batch_first=True, layer_norm_eps=1e-12).eval()
    (layer,) = ours.layers
    with torch.no_grad():
        for name in ("weight", "bias"):
            joint = torch.cat([getattr(part, name) for part in (layer.query, layer.key, layer.value)])
            getattr(theirs.self_attn, f"in_proj_{name}").copy_(joint)
            pairs = {"mix": theirs.self_attn.out_proj, "widen": theirs.linear1, "narrow": theirs.linear2}
            for ours_name, module in {**pairs, "attended": theirs.norm1, "done": theirs.norm2}.items():
                getattr(module, name).copy_(getattr(getattr(layer, ours_name), name))
        tokens = torch.randint(0, 7, (2, 5))
        x = ours.norm(ours.words(tokens) + ours.positions(torch.arange(5)) + ours.segments(torch.tensor(0)))
        torch.testing.assert_close(ours(tokens), theirs(x))


def test_a_head_born_with_zeros_is_awake() -> None:
    model, make_input = load_model("vit_b_16", image_size=32, size=32, num_classes=4)
    with torch.no_grad():
        assert float(model(make_input(2)).std()) > 0.1


def test_an_unknown_network_is_refused_with_a_suggestion() -> None:
    with pytest.raises(OptionError, match="'resnet51'; did you mean resnet"):
        load_model("resnet51")
    with pytest.raises(OptionError, match="'bert_bas'; did you mean bert_base"):
        load_model("bert_bas")


def deep(norm: bool) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(30):
        layers += [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 10))


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "bare"])
def test_settling_stops_activations_from_vanishing(norm: bool) -> None:
    model, x = deep(norm), torch.randn(4, 8, 8, 8)
    settle(model, x)
    assert not model.training
    with torch.no_grad():
        hidden, out = model[:-2](x), model(x)
    assert 0.3 < float(hidden.std()) < 3
    assert 0.9 < float(out.std()) < 1.1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_settling_does_not_divide_by_a_layer_that_is_silent() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    settle(model, torch.randn(3, 4))
    assert torch.isfinite(model(torch.randn(3, 4))).all()
