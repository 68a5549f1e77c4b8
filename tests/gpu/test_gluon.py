"""A Gluon kernel with a TMA descriptor on a real GPU: compiled, lowered, in a plan, and right."""

from __future__ import annotations

import pytest
import torch

from jitrt.runtime import Engine
from tests.codegen.gluon_kernels import COLUMNS, ROWS, plan_file

pytestmark = pytest.mark.gpu


def test_it_gives_the_right_numbers_wherever_its_input_lies() -> None:
    if torch.cuda.get_device_capability(0) != (9, 0):
        pytest.skip("the kernel is one for sm_90")
    engine = Engine(plan_file())
    kept = [torch.randn(ROWS, COLUMNS, device="cuda", dtype=torch.float16) for _ in range(5)]
    for given in kept:
        assert torch.equal(engine(given), given + given)
