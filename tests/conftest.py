"""What every test shares: a cache folder of its own, repeatable property tests, and the GPU tests' skip."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import pytest

if importlib.util.find_spec("hypothesis"):  # a lent GPU machine has pytest but not the whole dev extra
    from hypothesis import settings

    settings.register_profile("jitrt", deadline=None, derandomize=True, max_examples=50)
    settings.load_profile("jitrt")


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test, nor a process it starts, reads or writes the user's cache."""
    os.environ["JITRT_CACHE_DIR"] = str(tmp_path_factory.mktemp("jitrt-cache"))


@cache
def _missing_gpu() -> str | None:
    """Why GPU tests cannot run here, or None."""
    import torch

    if not torch.cuda.is_available():
        return f"no NVIDIA GPU: torch {torch.__version__} sees none"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    reason = _missing_gpu() if marked else None
    if reason is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))
