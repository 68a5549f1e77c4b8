"""Which configurations of a matrix product are offered; how good their order is stands in tests/tune/test_fit.py."""

from __future__ import annotations

import pytest

from jitrt.codegen.target import TARGETS
from jitrt.kernels.base import Config, templates
from jitrt.kernels.gemm_cost import GemmShape, rank_configs
from tests.kernels.convolutions import conv_problem

TARGET = TARGETS[90]
ALL = 1 << 20


def configs(*, reads: int = 0, vectors: bool = False) -> list[Config]:
    shape = GemmShape(784, 512, 1, 1024, 1, 2, False, reads, epilogue_vectors=vectors)
    return list(rank_configs(shape, TARGET, keep=ALL))


def accumulators(config: Config) -> int:
    return config["BLOCK_M"] * config["BLOCK_N"] // (32 * config["num_warps"])


def test_a_bias_is_loaded_early_where_the_tile_is_small_and_the_sum_whole() -> None:
    found = configs(vectors=True)
    assert all(c["EARLY"] == (c["SPLIT_K"] == 1 and accumulators(c) <= 32) for c in found)
    assert {c["EARLY"] for c in found} == {True, False}


def test_a_residual_is_tried_both_ways_and_nothing_to_load_is_not() -> None:
    found = [c for c in configs(reads=1, vectors=True) if c["SPLIT_K"] == 1]
    late = [{**c, "EARLY": True} for c in found if not c["EARLY"] and accumulators(c) <= 64]
    assert late and all(c in found for c in late)
    assert not any(c["EARLY"] for c in configs())


def test_only_the_epilogues_operands_count_as_its_reads() -> None:
    # 7x7 pixels of 32 channels are fewer elements than the weights are.
    candidates = templates()["conv2d"].candidates(conv_problem((1, 512, 7, 7), 32, (1, 1)), TARGET)
    assert all(c["EARLY"] == (c["SPLIT_K"] == 1 and accumulators(c) <= 32) for c in candidates)


@pytest.mark.parametrize("arch", TARGETS)
def test_no_candidate_of_a_stem_is_offered_twice(arch: int) -> None:
    pads = ((3, 3), (3, 3))
    problem = conv_problem((8, 3, 64, 64), 64, (7, 7), stride=(2, 2), padding=pads)
    candidates = [tuple(sorted(c.items())) for c in templates()["stem"].candidates(problem, TARGETS[arch])]
    assert len(candidates) == len(set(candidates)) > 10
