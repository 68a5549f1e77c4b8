"""What the README shows that needs neither a GPU nor a model of the reader's runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_network_that_the_readme_defines() -> None:
    (block,) = [code for code in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S) if "jitrt.Network(" in code]
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["odds"].shape == (1, 10)
    np.testing.assert_allclose(names["odds"].sum(), 1, rtol=1e-5)
    assert [node.loc.partition(":")[0] for node in names["net"].graph.nodes] == ["README.md"] * 7
