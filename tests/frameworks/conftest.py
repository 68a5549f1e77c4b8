"""The packages that these tests need."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

HINT = "is in the extra 'frameworks': pip install -c constraints.txt -e '.[dev,frameworks]'"


@pytest.fixture(scope="session")
def package() -> Callable[..., Any]:
    """`package("skl2onnx", "sklearn")`: the first of these modules, if they are to be loaded here; the test is skipped
    if one is missing."""

    def find(*names: str, load: bool = True) -> Any:
        for name in names:
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"no {name}: it {HINT}")
        return importlib.import_module(names[0]) if load else None

    return find
