"""Probing by a guess: a sample of the centroids may mislead it; the best are found all the same.

A sample is looked at from 16 probes of 64 times as many centroids on (native/table.cpp).
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from synthetic import make_query

from colbert_core import _native, reference
from colbert_core.types import AnyArray

EVERY = 16  # centroid is of the sample
CENTROIDS = 16 * 1024 + 7  # enough for two threads, and no multiple of anything
DIM = 16


def random_codes(seed: int = 0) -> AnyArray:
    return np.random.default_rng(seed).integers(-127, 128, (CENTROIDS, DIM)).astype(np.int8)


def assert_probes_are_the_references(codes_CD: AnyArray, Q_LD: AnyArray, nprobe: int) -> None:
    """With one thread and two, with rows kept and without."""
    scales_C = np.full(len(codes_CD), 0.01, np.float32)
    table = _native.CentroidTable(codes_CD, scales_C)
    expected_ids, expected_scores = reference.CentroidTable(codes_CD, scales_C).probe(Q_LD, nprobe)
    for threads in (1, 2):
        for keep_rows in (False, True):
            ids_LP, scores_LP = table.probe(Q_LD, nprobe, threads, keep_rows)
            assert_array_equal(ids_LP, expected_ids)
            assert_array_equal(scores_LP, expected_scores)


@pytest.mark.parametrize("nprobe", [15, 16, 64, 256, 257])
@pytest.mark.parametrize("tokens", [1, 9, 17, 25, 33])
def test_random_centroids(isa: str, tokens: int, nprobe: int) -> None:
    assert_probes_are_the_references(random_codes(), make_query(tokens, DIM), nprobe)


def test_a_sample_that_holds_all_of_the_best(isa: str) -> None:
    """The guess is too high: what exceeds it is too few."""
    Q_LD = np.abs(make_query(5, DIM))
    codes_CD = -np.abs(random_codes())
    codes_CD[::EVERY] = np.abs(codes_CD[::EVERY].astype(np.int16)).clip(0, 127)
    # Fewer good ones than are asked for, all of them in the sample.
    codes_CD[40 * EVERY :: EVERY] *= -1
    assert_probes_are_the_references(codes_CD, Q_LD, 64)


def test_a_sample_that_holds_none_of_the_best(isa: str) -> None:
    """The guess is too low: nearly all exceed it, and buffers are cut again and again."""
    codes_CD = np.abs(random_codes())
    codes_CD[::EVERY] = -codes_CD[::EVERY]
    assert_probes_are_the_references(codes_CD, np.abs(make_query(5, DIM)), 64)


@pytest.mark.parametrize("value", [0, 3])
def test_centroids_that_are_all_alike(isa: str, value: int) -> None:
    """Nothing exceeds the guess; of equal scores the smaller ids are the best."""
    codes_CD = np.full((CENTROIDS, DIM), value, np.int8)
    assert_probes_are_the_references(codes_CD, make_query(3, DIM), 32)


def test_many_centroids_of_one_score(isa: str) -> None:
    """The guess falls among equals, and ends in the middle of them."""
    codes_CD = np.repeat(random_codes()[: CENTROIDS // 50], 50, axis=0)
    for nprobe in (32, 64):
        assert_probes_are_the_references(codes_CD, make_query(4, DIM), nprobe)


def test_one_table_for_queries_of_many_sizes(isa: str) -> None:
    """What a selector holds of a longer query, or of more probes, says nothing of the next one."""
    codes_CD, scales_C = random_codes(), np.full(CENTROIDS, 0.01, np.float32)
    table, expected = (module.CentroidTable(codes_CD, scales_C) for module in (_native, reference))
    for tokens, nprobe in ((40, 256), (3, 64), (20, 16), (14, 128), (33, 32), (1, 16)):
        Q_LD = make_query(tokens, DIM, seed=tokens)
        for ours, theirs in zip(
            table.probe(Q_LD, nprobe, 1, False), expected.probe(Q_LD, nprobe), strict=True
        ):
            assert_array_equal(ours, theirs)
