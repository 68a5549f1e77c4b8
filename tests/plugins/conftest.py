"""Makes `planted_plugins` importable, here and in the workers that tests start; undoes what tests register."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _own_plugins_and_rules() -> Iterator[None]:
    """What a test declares is gone after it."""
    from jitrt.passes.apply_rules import registered, unregister
    from jitrt.plugins import names, registry

    plugins, rules = set(names()), {rule.name for rule in registered()}
    yield
    for name in set(names()) - plugins:
        registry.forget(name)
    for rule in registered():
        if rule.name not in rules:
            unregister(rule.name)
