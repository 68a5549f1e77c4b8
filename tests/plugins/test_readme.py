"""The README's "Add a kernel of your own" does what it says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from notebook_cells import Notebook

import jitrt
from jitrt.testing import check_plugin

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_snippets_of_the_readme() -> None:
    section = re.search(r"^## Add a kernel of your own\n(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    plugin, rule = re.findall(r"^```python\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    notebook = Notebook()
    notebook.run(plugin)
    notebook.run(rule)
    check_plugin("ns::swish_add", (3, 137), (3, 137), dtype="f16")

    x, y = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0)).unbind()
    wanted = x * torch.sigmoid(x) + y
    assert torch.equal(torch.ops.ns.swish_add(x, y), wanted)
    # Found by the rule, not by name.
    engine = jitrt.compile(lambda x, y: x * torch.sigmoid(x) + y, (x, y), target="reference")
    assert [layer.text for layer in engine.plan.layers] == ["ns::swish_add"]
    torch.testing.assert_close(engine(x, y), wanted)
    net = jitrt.Network()
    net.mark_output(net.add_plugin("ns::swish_add", net.add_input("x", (3, 40)), net.add_input("y", (3, 40))))
    np.testing.assert_allclose(jitrt.compile(net, target="reference")(x.numpy(), y.numpy()), wanted, rtol=1e-5)
