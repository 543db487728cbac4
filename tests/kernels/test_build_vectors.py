"""Vectors to bytes: native kernels give what the reference gives, bit for bit, on every path."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from colbert_core import _native, reference
from colbert_core.types import F32, I32, I64

DIMS = [8, 24, 128, 192, 1024]


def vectors(rng: np.random.Generator, rows: int, dim: int) -> F32:
    x = rng.standard_normal((rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def buckets(rng: np.random.Generator, bits: int) -> tuple[F32, F32]:
    levels = np.sort(rng.standard_normal(1 << bits)).astype(np.float32)
    return levels, (levels[1:] + levels[:-1]) / 2


def trellis_levels(rng: np.random.Generator) -> F32:
    """Some of the 64 are alike: paths of one cost."""
    levels = rng.standard_normal(64).astype(np.float32)
    levels[40:] = levels[:24]
    return levels


def steps(rng: np.random.Generator) -> tuple[F32, F32]:
    """Of ratios and of gains."""
    ratios, gains = rng.uniform(0.001, 0.2, 8), rng.uniform(0.8, 1.3, 32)
    return np.sort(ratios).astype(np.float32), np.sort(gains).astype(np.float32)


def odd(rng: np.random.Generator, dim: int) -> F32:
    """Zeros, one component alone, tiny and huge components, halves that round to even."""
    rows = vectors(rng, 8, dim)
    rows[0] = 0
    rows[1] = 0
    rows[1, dim // 2] = -1
    rows[2] *= np.float32(1e-28)
    rows[3] *= np.float32(1e-33)
    rows[4] *= np.float32(1e15)
    rows[5] = np.arange(dim) % 128 / np.float32(2)
    rows[5, 0] = -127
    rows[6] = -0.0
    return rows


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("threads", [1, 3])
def test_int8_rows(dim: int, threads: int) -> None:
    rng = np.random.default_rng(dim)
    for x_TD in (vectors(rng, 3000, dim), odd(rng, dim), vectors(rng, 0, dim)):
        native, expected = _native.to_int8(x_TD, threads), reference.to_int8(x_TD)
        assert np.array_equal(native[0], expected[0])
        assert np.array_equal(native[1], expected[1])
        assert native[0].min(initial=0) >= -127


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dim", [8, 24, 128])
@pytest.mark.parametrize("threads", [1, 3, 1 << 40])
def test_sums_are_exact_on_any_number_of_threads(dim: int, threads: int) -> None:
    rng = np.random.default_rng(dim)
    values_SD, _ = reference.to_int8(vectors(rng, 5000, dim))
    weights_S = rng.integers(0, reference.MAX_WEIGHT + 1, 5000).astype(np.int32)
    weights_S[:2] = 0, reference.MAX_WEIGHT
    for centroids in (1, 5, 700):
        codes_S = (rng.integers(0, centroids, 5000) // 2).astype(np.int32)  # half are empty
        found_CD = rng.integers(-9, 9, (centroids, dim))  # sums go on
        expected_CD = found_CD.copy()
        _native.add_rows(values_SD, weights_S, codes_S, found_CD, threads)
        reference.add_rows(values_SD, weights_S, codes_S, expected_CD)
        assert np.array_equal(found_CD, expected_CD)
        assert np.abs(found_CD).max() > 2**31


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", DIMS)
def test_residuals_are_the_references(bits: int, dim: int) -> None:
    rng = np.random.default_rng([bits, dim])
    centroids_CD = vectors(rng, 20, dim)
    centroids_CD[3] = 0
    codes_T = rng.integers(0, 20, 300).astype(np.int32)
    near_TD = centroids_CD[codes_T] + 0.5 * vectors(rng, 300, dim)
    near_TD[:40] = centroids_CD[codes_T[:40]]  # nothing is left of these
    odd_TD = odd(rng, dim)
    values, cutoffs = buckets(rng, bits)
    levels = trellis_levels(rng)
    near_TD[40:80] += cutoffs[0]  # some lie on a border of colbertv2's
    ratios, gains = steps(rng)
    for x_TD, codes in ((near_TD, codes_T), (odd_TD, codes_T[: len(odd_TD)])):
        shared = (x_TD, codes, centroids_CD, bits)
        for threads in (1, 3):
            found = _native.quantise_tartan(*shared, levels, ratios, gains, threads)
            expected = reference.quantise_tartan(*shared, levels, ratios, gains)
            assert np.array_equal(found[0], expected[0])
            assert np.array_equal(found[1], expected[1])
            found = _native.quantise_colbertv2(*shared, values, cutoffs, 0.5, 127.5, threads)
            expected = reference.quantise_colbertv2(*shared, values, cutoffs, 0.5, 127.5)
            assert np.array_equal(found[0], expected[0])
            assert np.array_equal(found[1], expected[1])
            assert found[0].shape == (len(x_TD), dim * bits // 8)


@pytest.mark.usefixtures("isa")
def test_more_vectors_than_a_thread_takes_at_once() -> None:
    rng = np.random.default_rng(0)
    centroids_CD = vectors(rng, 50, 64)
    codes_T = rng.integers(0, 50, 5000).astype(np.int32)
    x_TD = vectors(rng, 5000, 64)  # and the last ones do not fill a register
    shared = (x_TD, codes_T, centroids_CD, 2, trellis_levels(rng), *steps(rng))
    expected = reference.quantise_tartan(*shared)
    for threads in (1, 2, 8):
        found = _native.quantise_tartan(*shared, threads)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])


X_TD = np.ones((3, 16), np.float32)
CODES_T: I32 = np.zeros(3, np.int32)
CENTROIDS_CD = np.ones((4, 16), np.float32)
LEVELS, STEPS = np.zeros(64, np.float32), np.zeros(32, np.float32)
VALUES, CUTOFFS = np.zeros(4, np.float32), np.zeros(3, np.float32)
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vectors_TD": X_TD.astype(np.float64)}, "vectors_TD must be a C-contiguous float32"),
    ({"vectors_TD": X_TD[0]}, "vectors_TD must be a C-contiguous float32"),
    ({"vectors_TD": X_TD[:, ::2]}, "vectors_TD must be a C-contiguous float32"),
    ({"vectors_TD": X_TD[:, :8].copy()}, "the same dimension"),
    ({"codes_T": CODES_T[:2]}, "one entry for each vector"),
    ({"codes_T": CODES_T + 4}, "below the number of centroids, 4"),
    ({"codes_T": CODES_T - 1}, "below the number of centroids, 4"),
    ({"bits": 0}, "bits 0 must be 1, 2, 3 or 4"),
    ({"bits": 5}, "bits 5 must be 1, 2, 3 or 4"),
    ({"threads": 0}, "threads 0 must be at least 1"),
    (
        {
            "vectors_TD": np.ones((3, 12), np.float32),
            "centroids_CD": np.ones((4, 12), np.float32),
        },
        "dimension 12 must be a multiple of 8",
    ),
]
WRONG_TABLES: list[tuple[str, dict[str, Any], str]] = [
    ("tartan", {"levels": LEVELS[:16]}, "levels has 16 entries, expected 64"),
    ("tartan", {"levels": LEVELS.astype(np.float64)}, "levels must be a C-contiguous float32"),
    ("tartan", {"ratio_steps": STEPS[:7]}, "ratio_steps has 7 entries, expected 8"),
    ("tartan", {"gain_steps": VALUES}, "gain_steps has 4 entries, expected 32"),
    ("colbertv2", {"levels": VALUES[:3]}, "levels has 3 entries, expected 4"),
    ("colbertv2", {"cutoffs": VALUES}, "cutoffs has 4 entries, expected 3"),
]


def quantise(twin: Any, name: str, changed: dict[str, Any]) -> None:
    tables: dict[str, dict[str, Any]] = {
        "tartan": {"levels": LEVELS, "ratio_steps": STEPS[:8], "gain_steps": STEPS},
        "colbertv2": {"levels": VALUES, "cutoffs": CUTOFFS, "lowest": 0.5, "steps": 127.5},
    }
    arguments = {"vectors_TD": X_TD, "codes_T": CODES_T, "centroids_CD": CENTROIDS_CD, "bits": 2}
    getattr(twin, f"quantise_{name}")(**arguments | tables[name] | changed)


@pytest.mark.parametrize("twin", [_native, reference])
@pytest.mark.parametrize("name", ["tartan", "colbertv2"])
@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_what_cannot_be_is_refused(
    changed: dict[str, Any], message: str, name: str, twin: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        quantise(twin, name, changed)


@pytest.mark.parametrize("twin", [_native, reference])
@pytest.mark.parametrize(("name", "changed", "message"), WRONG_TABLES)
def test_tables_of_another_size_are_refused(
    name: str, changed: dict[str, Any], message: str, twin: Any
) -> None:
    with pytest.raises(ValueError, match=message):
        quantise(twin, name, changed)


@pytest.mark.parametrize(
    ("weights", "codes", "sums_CD", "message"),
    [
        ([1, 1], [0, 0, 0], np.zeros((4, 16), np.int64), "one entry for each row"),
        ([1, 1, 1], [0, 0], np.zeros((4, 16), np.int64), "one entry for each row"),
        ([1, 1, 1], [0, 0, 4], np.zeros((4, 16), np.int64), "below the number of centroids, 4"),
        ([1, 1, 1], [0, 0, -1], np.zeros((4, 16), np.int64), "below the number of centroids, 4"),
        ([1, 1, -1], [0, 0, 0], np.zeros((4, 16), np.int64), "between 0 and 16777216"),
        ([1, 1, 2**24 + 1], [0, 0, 0], np.zeros((4, 16), np.int64), "between 0 and 16777216"),
        ([1, 1, 1], [0, 0, 0], np.zeros((0, 16), np.int64), "a row for each centroid"),
        ([1, 1, 1], [0, 0, 0], np.zeros((4, 8), np.int64), "of 16 dimensions"),
    ],
)
def test_sums_that_cannot_be_are_refused(
    weights: list[int], codes: list[int], sums_CD: I64, message: str
) -> None:
    weights_S, codes_S = np.array(weights, np.int32), np.array(codes, np.int32)
    with pytest.raises(ValueError, match=message):
        _native.add_rows(np.ones((3, 16), np.int8), weights_S, codes_S, sums_CD, 1)


@pytest.mark.parametrize("spoil", [np.float32, np.int32])
def test_sums_are_int64_that_can_be_written(spoil: type) -> None:
    ones_S = np.ones(3, np.int32)
    sums_CD = np.zeros((4, 16), np.int64)
    sums_CD.flags.writeable = False
    for refused_CD in (sums_CD, np.zeros((4, 16), spoil), np.zeros((16, 4), np.int64).T):
        with pytest.raises(TypeError):
            _native.add_rows(np.ones((3, 16), np.int8), ones_S, ones_S, refused_CD, 1)
