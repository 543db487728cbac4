"""Assignment of tokens to centroids: the integer argmax of plain numpy, on every path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from colbert_core import _native, reference
from colbert_core.types import I8, I32


@pytest.fixture(params=[*_native.isas(), "reference"])
def twin(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The native kernels on every SIMD path, and the reference."""
    before = _native.isa()
    if request.param != "reference":
        _native.use_isa(request.param)
    yield reference if request.param == "reference" else _native
    _native.use_isa(before)


def int8(rng: np.random.Generator, rows: int, dim: int, spread: float = 40) -> I8:
    values = np.rint(rng.standard_normal((rows, dim)) * spread)
    return np.clip(values, -127, 127).astype(np.int8)


def nearest(tokens_TD: I8, codes_CD: I8) -> I32:
    """The definition: of equal products the first centroid."""
    products_TC = tokens_TD.astype(np.int32) @ codes_CD.T.astype(np.int32)
    return products_TC.argmax(axis=1).astype(np.int32)


@pytest.mark.parametrize("dim", [8, 24, 128, 192, 1024])
@pytest.mark.parametrize("centroids", [1, 3, 31, 32, 33, 1000])
def test_the_first_centroid_of_the_largest_product(dim: int, centroids: int, twin: Any) -> None:
    rng = np.random.default_rng([dim, centroids])
    codes_CD = int8(rng, centroids, dim)
    table = twin.NearestCentroid(codes_CD)
    assert (table.centroids, table.dim) == (centroids, dim)
    for tokens in (0, 1, 31, 33, 300):
        tokens_TD = int8(rng, tokens, dim)
        assert np.array_equal(table.assign(tokens_TD, 1), nearest(tokens_TD, codes_CD))


def one_sign(rows: int, sign: int) -> I8:
    return np.full((rows, 1024), 127 * sign, np.int8)


EXTREMES: dict[str, Callable[[np.random.Generator], tuple[I8, I8]]] = {
    "zero tokens": lambda rng: (np.zeros((40, 64), np.int8), int8(rng, 70, 64)),
    "zero centroids": lambda rng: (int8(rng, 40, 64), np.zeros((70, 64), np.int8)),
    "duplicates": lambda rng: (int8(rng, 40, 64), np.repeat(int8(rng, 9, 64), 11, axis=0)),
    "all products negative": lambda _: (one_sign(40, 1), one_sign(70, -1)),
    "the largest products": lambda _: (one_sign(40, -1), one_sign(70, -1)),
    "few values": lambda rng: (int8(rng, 500, 8, 0.7), int8(rng, 200, 8, 0.7)),
    "tokens of -128": lambda rng: (np.full((40, 128), -128, np.int8), int8(rng, 90, 128, 90)),
}


@pytest.mark.parametrize("case", EXTREMES)
def test_ties_and_extremes(case: str, twin: Any) -> None:
    tokens_TD, codes_CD = EXTREMES[case](np.random.default_rng(5))
    found_T = twin.NearestCentroid(codes_CD).assign(tokens_TD, 1)
    assert np.array_equal(found_T, nearest(tokens_TD, codes_CD))


def test_more_tokens_than_a_block_on_any_number_of_threads(twin: Any) -> None:
    rng = np.random.default_rng(6)
    tokens_TD, codes_CD = int8(rng, 20_000, 64), int8(rng, 700, 64)
    expected_T = nearest(tokens_TD, codes_CD)
    for threads in (1, 3, 16, 1 << 40):
        found_T = twin.NearestCentroid(codes_CD).assign(tokens_TD, threads)
        assert np.array_equal(found_T, expected_T)


@pytest.mark.parametrize("dim", [24, 128])
@pytest.mark.parametrize("threads", [1, 3])
def test_groups_look_at_their_runs_alone(dim: int, threads: int, twin: Any) -> None:
    rng = np.random.default_rng(dim)
    run = twin.RUN
    tokens_TD, codes_CD = int8(rng, 1000, dim), int8(rng, 10 * run - 5, dim)
    groups = 7
    group_T = rng.integers(0, groups - 1, len(tokens_TD))  # the last group is empty
    order_T = np.argsort(group_T, kind="stable").astype(np.int32)
    starts_G1 = np.searchsorted(group_T[order_T], np.arange(groups + 1)).astype(np.int64)
    runs_GM = np.array([rng.choice(10, 3, replace=False) for _ in range(groups)], np.int32)

    table = twin.NearestCentroid(codes_CD)
    found_T = table.assign_among(tokens_TD, order_T, starts_G1, runs_GM, threads)

    looked_GC = np.zeros((groups, 10), bool)
    np.put_along_axis(looked_GC, runs_GM, True, axis=1)
    looked_TC = looked_GC.repeat(run, axis=1)[group_T][:, : len(codes_CD)]
    products_TC = tokens_TD.astype(np.int32) @ codes_CD.T.astype(np.int32)
    products_TC[~looked_TC] = np.iinfo(np.int32).min
    assert np.array_equal(found_T, products_TC.argmax(axis=1))


CODES_CD = np.ones((40, 16), np.int8)
TOKENS_TD = np.ones((3, 16), np.int8)


@pytest.mark.parametrize(
    ("codes_CD", "message"),
    [
        (np.ones((40, 12), np.int8), "multiple of 8"),
        (np.ones((40, 1032), np.int8), "multiple of 8"),
        (np.ones((0, 16), np.int8), "no centroids"),
        (np.full((2, 16), -128, np.int8), "within ±127"),
        (np.ones((40, 16), np.int16), "codes_CD must be a C-contiguous int8"),
        (np.ones((16, 40), np.int8).T, "codes_CD must be a C-contiguous int8"),
    ],
)
def test_centroids_that_cannot_be_are_refused(codes_CD: I8, message: str, twin: Any) -> None:
    with pytest.raises(ValueError, match=message):
        twin.NearestCentroid(codes_CD)


@pytest.mark.parametrize(
    ("tokens_TD", "threads", "message"),
    [
        (np.ones((3, 8), np.int8), 1, "dimension 8, the centroids have 16"),
        (np.ones((3, 16), np.float32), 1, "tokens_TD must be a C-contiguous int8"),
        (TOKENS_TD, 0, "threads 0 must be at least 1"),
    ],
)
def test_tokens_that_cannot_be_are_refused(
    tokens_TD: I8, threads: int, message: str, twin: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        twin.NearestCentroid(CODES_CD).assign(tokens_TD, threads)


@pytest.mark.parametrize(
    ("order_T", "starts_G1", "runs_GM", "message"),
    [
        ([0, 1], [0, 3], [[0]], "order_T has 2 entries for 3 tokens"),
        ([0, 1, 3], [0, 3], [[0]], "order_T must lie below the number of tokens, 3"),
        ([0, 1, -1], [0, 3], [[0]], "order_T must lie below the number of tokens, 3"),
        ([0, 1, 2], [0, 2], [[0]], "starts_G1 must ascend from 0"),
        ([0, 1, 2], [1, 3], [[0]], "starts_G1 must ascend from 0"),
        ([0, 1, 2], [0, 4, 3], [[0], [0]], "starts_G1 must ascend from 0"),
        ([0, 1, 2], [0, 3], [[0], [1]], "one row for each group"),
        ([0, 1, 2], [0, 3], [[2]], "runs_GM must lie below the number of runs, 2"),
        ([0, 1, 2], [0, 3], [[-1]], "runs_GM must lie below the number of runs, 2"),
        ([0, 1, 2], [0, 3], np.zeros((1, 0)), "at least one run"),
    ],
)
def test_groups_that_cannot_be_are_refused(
    order_T: list[int], starts_G1: list[int], runs_GM: list[list[int]], message: str, twin: Any
) -> None:
    table = twin.NearestCentroid(CODES_CD)
    with pytest.raises(ValueError, match=message):
        table.assign_among(
            TOKENS_TD,
            np.array(order_T, np.int32),
            np.array(starts_G1, np.int64),
            np.array(runs_GM, np.int32),
            1,
        )
