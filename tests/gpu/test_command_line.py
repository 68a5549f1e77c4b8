"""build, run and bench on the GPU, each in a process of its own, on a small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jitrt.knobs import environment

pytestmark = pytest.mark.gpu
ROOT = Path(__file__).resolve().parents[2]

MODULE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 7, 2, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2))
        self.main = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64))
        self.side = nn.Sequential(nn.Conv2d(32, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.stem(x)
        return self.head(torch.relu(self.main(x) + self.side(x)).mean((2, 3)))

torch.manual_seed(0)
block = Block().eval()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small_block.py").write_text(MODULE)
    return tmp_path


def jitrt(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "jitrt.cli", *words],
        cwd=folder,
        env=environment(
            {
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                "JITRT_CACHE_DIR": str(folder / "cache"),
            }
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_build_run_inspect(folder: Path) -> None:
    words = ("small_block:block", "--shape", "1x3x64x64", "--batch", "4", "--fp16", "--tune", "10s")
    jitrt(folder, "build", *words, "-o", "block.plan")
    x = np.random.default_rng(0).standard_normal((4, 3, 64, 64), dtype=np.float32).astype(np.float16)
    np.save(folder / "x.npy", x)
    assert "loaded in" in jitrt(folder, "run", "block.plan", "--input", "x.npy", "--output", "y.npy")
    scope: dict[str, torch.nn.Module] = {}
    exec(MODULE, scope)  # the same seed, hence the same weights
    with torch.no_grad():
        expected = scope["block"](torch.from_numpy(x).float()).numpy()
    found = np.load(folder / "y.npy").astype(np.float32)
    assert np.linalg.norm(found - expected) < 5e-3 * np.linalg.norm(expected)
    assert json.loads(jitrt(folder, "inspect", "block.plan", "--json"))["launches"]
    assert "all of" in jitrt(folder, "cache", "verify")


def test_bench_against_every_peer(folder: Path) -> None:
    words = ("small_block:block", "--shape", "1x3x64x64", "--batch", "2", "--tune", "10s", "--seconds", "0.3")
    out = jitrt(folder, "bench", *words, "--vs", "all", "--output", "R.md")
    assert "failed" not in out
    (line,) = (folder / "R.jsonl").read_text().splitlines()
    outcomes = json.loads(line)["outcomes"]
    assert [o["contestant"] for o in outcomes] == ["jitrt", "eager", "eager+graph", "compile", "cudnn-fused"]
    assert all(o["error"] < 5e-3 and o["timing"]["gpu_compute"]["median"] > 0 for o in outcomes)
