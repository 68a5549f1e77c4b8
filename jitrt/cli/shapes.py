"""--shapes, as trtexec writes them: the shapes of an ONNX model's inputs by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jitrt.errors import OptionError

SHAPES_HELP = "shapes of an ONNX model's inputs, NAME:DIMS, as x:8x3x224x224,ids:8x128; may be repeated"

_ENTRY = re.compile(r"""(?P<quote>["']?)(?P<name>.+?)(?P=quote):(?P<dims>\d+(?:x\d+)*|scalar)""")


def named_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of `--shapes x:8x3x224x224,ids:8x128`, repeated or separated by commas; a name may have colons in it,
    and "scalar" is a shape without dims. Raises OptionError for one that is not so, or a name that comes twice."""
    found: dict[str, tuple[int, ...]] = {}
    for part in [part.strip() for text in texts for part in text.split(",")]:
        match = _ENTRY.fullmatch(part)
        if match is None:
            raise OptionError(f"--shapes has {part!r}; write an input's name, a colon and its dims: x:8x3x224x224")
        if match["name"] in found:
            raise OptionError(f"--shapes has {match['name']!r} twice; a plan has one shape")
        dims = match["dims"]
        found[match["name"]] = () if dims == "scalar" else tuple(int(size) for size in dims.split("x"))
    return found


def shape_text(shape: Sequence[int]) -> str:
    """(8, 3) as 8x3."""
    return "x".join(map(str, shape)) or "scalar"
