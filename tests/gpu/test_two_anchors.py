"""Every candidate of the kernels with two anchors, verified and timed on the GPU at the networks' sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("triton")

from jitrt.codegen.target import target_of
from jitrt.kernels.base import Problem
from jitrt.tune.cost import floor_seconds
from jitrt.tune.progress import Event
from jitrt.tune.select import select
from tests.kernels.two_anchors import heads, pools, separables, squeezes, stems

pytestmark = pytest.mark.gpu

PROBLEMS = {
    **heads(1),
    **heads(8),
    **dict(list(squeezes(1).items())[:1]),
    **stems(1),
    **stems(8),
    **separables(1, ["112x112 96 -> 24, by 2", "14x14 576 -> 96", "7x7 960 -> 160"]),
    **separables(8, ["56x56 144 -> 24"]),
}

POOLS = {**pools(1), **pools(16, ["224x224 64 -> 64", "28x28 512 -> 512"])}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITRT_CACHE_DIR", str(tmp_path))


def test_every_candidate_is_right() -> None:
    _check(PROBLEMS)


def test_every_candidate_of_a_convolution_and_its_pool_is_right() -> None:
    _check(POOLS)


def _check(problems: dict[str, Problem]) -> None:
    events: list[Event] = []
    target = target_of(90)
    choices = select(list(problems.values()), target, mode="exhaustive", device=0, progress=events.append)
    refused = [e.text for e in events if e.record is not None and e.record.reason is not None]
    for (name, problem), choice in zip(problems.items(), choices, strict=True):
        floor = floor_seconds(problem, target) * 1e6
        print(f"{name:45} {choice.microseconds:8.2f} us  floor {floor:7.2f}  {choice.tactic}")
    print("\n".join(refused))
    assert not [text for text in refused if "spill" not in text]
