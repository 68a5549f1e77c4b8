"""The mutation fuzzer: 20,000 damaged models, each imported or refused with a typed error; and it finds what is bad."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitrt.errors import ModelError
from tests.frontend.onnx import fuzz
from tests.frontend.onnx.mutations import Mutator
from tests.frontend.onnx.seeds import seeds

CASES = 20_000


def test_there_are_seeds_of_every_kind() -> None:
    models = seeds()
    assert len(models) >= 20
    assert {
        "conv",
        "lstm",
        "branch",
        "loop",
        "scan",
        "functions",
        "external",
        "quantized",
        "attention",
    } <= models.keys()


def test_damaged_models_are_imported_or_refused(tmp_path: Path) -> None:
    report = fuzz.fuzz(fuzz.Fuzzer(tmp_path), range(CASES))
    print(report)
    assert report.problems == []
    assert sum(report.outcomes.values()) == CASES
    # Neither all of them broken beyond recognition nor hardly damaged: the walls behind the first are tried too.
    assert report.outcomes["imported"] > CASES // 20
    assert report.outcomes["ImportFailure"] > CASES // 50
    assert report.outcomes["ModelError"] > CASES // 10


def test_a_case_is_the_same_every_time(tmp_path: Path) -> None:
    one, other = fuzz.Fuzzer(tmp_path, seed=3), fuzz.Fuzzer(tmp_path, seed=3)
    assert [one.case(i) for i in (40, 5, 7)] == [other.case(i) for i in (40, 5, 7)]
    assert one.case(5) != fuzz.Fuzzer(tmp_path, seed=4).case(5)


def test_mutations_change_models() -> None:
    mutator, rng = Mutator(list(seeds().values())), random.Random(0)
    for model in seeds().values():
        data = model.SerializeToString()
        assert sum(mutator.mutated(rng, model) != data for _ in range(10)) > 5


def _behave(what: str) -> Any:
    """What import_onnx could do wrong."""

    def behave(*_: object, **__: object) -> None:
        if what == "loop":
            while True:
                pass
        if what == "slow":
            end = time.process_time() + 0.05
            while time.process_time() < end:
                pass
            return
        if what == "stray":
            raise KeyError("k")
        try:
            if what == "memory":
                np.ones(1 << 32)
            raise RecursionError
        except (MemoryError, RecursionError) as error:
            raise ModelError("m") from error

    return behave


@pytest.mark.parametrize(
    ("what", "problem"),
    [
        ("loop", "stopped after"),
        ("slow", "took 0.1 s"),
        ("stray", "KeyError: 'k'"),
        ("memory", "MemoryError"),
        ("deep", "RecursionError"),
    ],
)
def test_the_fuzzer_sees_what_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, problem: str) -> None:
    fuzzer, report = fuzz.Fuzzer(tmp_path), fuzz.Report()
    monkeypatch.setattr(fuzz, "import_onnx", _behave(what))
    monkeypatch.setattr(fuzz, "read_model", lambda *_, **__: None)
    monkeypatch.setattr(fuzz, "SECONDS", 0.03)
    with fuzz.bounded_memory():
        fuzzer.run(0, report)
    assert problem in "\n".join(report.problems)
