"""What the growth and roofline benchmarks compute, on figures and vectors made up."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from report.floors import Work, bandwidth, floors
from report.growth import exponent, growth_claims

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))

from adapter import Vectors
from growth_index import COSINE, GrownPassages, rotation


def rows_growing(power: float) -> list[dict[str, float]]:
    sizes = (10_000, 100_000, 300_000, 1_000_000)
    return [{"passages": n, "p50_ms": (n / 1e5) ** power, "kept": 0.95} for n in sizes]


def test_exponent_is_fitted_from_the_least_size_on() -> None:
    rows = rows_growing(0.4)
    rows[0]["p50_ms"] = 99.0
    assert exponent(rows, 100_000) == pytest.approx(0.4)
    assert exponent(rows[:2], 100_000) is None


@pytest.mark.parametrize(("power", "holds"), [(0.45, True), (0.55, False)])
def test_growth_claim(power: float, holds: bool) -> None:
    rows = rows_growing(power)
    (line,) = growth_claims({"rows": rows, "exponent": exponent(rows, 100_000)})
    assert line["holds"] is holds


def vectors() -> Vectors:
    rng = np.random.default_rng(3)
    drawn = rng.standard_normal((100, 64))
    tokens = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float16)
    return Vectors(tokens, np.array([0, 30, 37, 100]), [])


def test_grown_passages_are_the_same_each_time_and_copies_are_no_duplicates() -> None:
    passages = GrownPassages(vectors(), 29, length=8)
    assert len(passages.windows) == 3 + 0 + 7  # whole windows only
    first = np.stack(list(passages))
    assert first.shape == (29, 8, 64)
    assert np.array_equal(first, np.stack(list(passages)))
    fewer = np.stack(list(GrownPassages(vectors(), 15, length=8)))
    assert np.allclose(first[:15], fewer, rtol=0, atol=1e-6)  # BLAS sums by the shape of a block
    assert np.allclose(np.linalg.norm(first, axis=-1), 1, atol=1e-5)
    cosines = (first[:10] * first[10:20]).sum(axis=-1)
    assert cosines.max() < 0.98
    assert cosines.mean() == pytest.approx(COSINE, abs=0.05)


def test_rotation_is_orthonormal() -> None:
    turn = rotation(64, (0, 1))
    assert np.allclose(turn @ turn.T, np.eye(64), atol=1e-5)


def test_floor_is_the_larger_of_operations_and_bytes() -> None:
    peaks = {
        "int8_operations_per_s": {"a": 1e9, "b": 2e9},
        "bytes_per_s": {"1000": 2e9, "1000000": 1e9},
    }
    assert bandwidth(peaks, 10) == bandwidth(peaks, 999_999) == 2e9
    assert bandwidth(peaks, 1_000_000) == 1e9
    works = [[Work("scan", 4.0, 4e6, 1e6, 10), Work("ids", 1.0, 0, 0, 1)]]
    scan, ids, query = floors(works, peaks)
    assert scan["floor_ms"] == pytest.approx(2.0)  # 4e6 operations at 2e9 a second
    assert scan["gap"] == pytest.approx(2.0)
    assert ids["gap"] is None
    assert (query["ms"], query["gap"]) == (5.0, pytest.approx(2.5))
