"""Bits along the trellis: the best ones by definition, and the same on every path."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from colbert_core import _native, reference
from colbert_core.reference.trellis import best_windows, pack_windows, windows_of
from colbert_core.types import F32


def levels_of(rng: np.random.Generator) -> F32:
    return rng.standard_normal(64).astype(np.float32)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [8, 24, 1024])
def test_windows_give_back_the_bits(bits: int, dim: int) -> None:
    rng = np.random.default_rng([bits, dim])
    packed_TB = rng.integers(0, 256, (7, dim * bits // 8)).astype(np.uint8)
    windows_TD = windows_of(packed_TB, bits, dim)
    assert np.array_equal(pack_windows(windows_TD, bits), packed_TB)
    shared = (1 << 6 - bits) - 1  # bits that a window has from the one before
    assert np.array_equal(windows_TD[:, 1:] & shared, windows_TD[:, :-1] >> bits)
    assert not (windows_TD[:, 0] & shared).any()


@pytest.mark.parametrize(("bits", "dim"), [(1, 8), (1, 16), (2, 8)])
def test_no_other_bits_come_nearer(bits: int, dim: int) -> None:
    """Every string of bits there is."""
    rng = np.random.default_rng(bits)
    levels_W, values_TD = levels_of(rng), rng.standard_normal((4, dim)).astype(np.float32)
    strings = np.arange(1 << dim * bits, dtype=np.uint32)
    packed = strings.view(np.uint8).reshape(-1, 4)[:, : dim * bits // 8]
    decoded = levels_W[windows_of(np.ascontiguousarray(packed), bits, dim)]
    found = levels_W[best_windows(values_TD, bits, levels_W)]
    for value_D, found_D in zip(values_TD, found, strict=True):
        least = ((decoded - value_D) ** 2).sum(axis=1).min()
        np.testing.assert_allclose(((found_D - value_D) ** 2).sum(), least, rtol=1e-5)


@pytest.mark.parametrize("bits", [3, 4])
def test_no_other_bits_of_three_dimensions_come_nearer(bits: int) -> None:
    """The last of eight dimensions, given the first five: all that widths 3 and 4 can try."""
    rng = np.random.default_rng(bits)
    levels_W, values_TD = levels_of(rng), rng.standard_normal((3, 8)).astype(np.float32)
    best_TD = best_windows(values_TD, bits, levels_W)
    for value_D, best_D in zip(values_TD, best_TD, strict=True):
        own_D = best_D >> 6 - bits
        least = ((levels_W[best_D] - value_D) ** 2).sum()
        for last in product(range(1 << bits), repeat=3):
            own_D[5:] = last
            windows_D = windows_of(pack_windows(own_D[None] << 6 - bits, bits), bits, 8)[0]
            assert ((levels_W[windows_D] - value_D) ** 2).sum() >= least - 1e-5


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("dim", [8, 24, 72, 128, 1024])
@pytest.mark.parametrize("tokens", [0, 1, 15, 16, 33])
def test_native_bits_are_the_references(tokens: int, dim: int, bits: int) -> None:
    rng = np.random.default_rng([bits, dim, tokens])
    levels_W = levels_of(rng)
    values_TD = rng.standard_normal((tokens, dim)).astype(np.float32)
    expected = reference.best_bits(values_TD, bits, levels_W)
    assert expected.shape == (tokens, dim * bits // 8)
    for threads in (1, 3):
        assert np.array_equal(_native.best_bits(values_TD, bits, levels_W, threads), expected)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_of_equal_costs_the_same_one_wins(bits: int) -> None:
    """Values and levels that are small integers: almost every path has an equal."""
    rng = np.random.default_rng(bits)
    values_TD = rng.integers(-2, 3, (200, 24)).astype(np.float32)
    values_TD[0], values_TD[1] = 0, 1e18
    for levels_W in (rng.integers(-2, 3, 64).astype(np.float32), np.ones(64, np.float32)):
        expected = reference.best_bits(values_TD, bits, levels_W)
        assert np.array_equal(_native.best_bits(values_TD, bits, levels_W), expected)


@pytest.mark.parametrize("twin", [_native, reference])
def test_what_cannot_be_is_refused(twin: object) -> None:
    best_bits, values_TD = twin.best_bits, np.ones((3, 16), np.float32)  # type: ignore[attr-defined]
    levels_W = np.zeros(64, np.float32)
    for arguments, message in (
        ((values_TD.astype(np.float64), 2, levels_W), "values_TD must be a C-contiguous float32"),
        ((values_TD, 0, levels_W), "bits 0 must be 1, 2, 3 or 4"),
        ((values_TD, 5, levels_W), "bits 5 must be 1, 2, 3 or 4"),
        ((values_TD, 2, levels_W[:16]), "levels_W has 16 entries, expected 64"),
        ((values_TD[:, :12].copy(), 2, levels_W), "dimension 12 must be a multiple of 8"),
        ((values_TD, 2, levels_W, 0), "threads 0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            best_bits(*arguments)
