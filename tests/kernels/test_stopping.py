"""When scoring ends: the reference beside plain arithmetic, and where nothing is ordinary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from colbert_core.reference.stopping import PRIOR_COUNT, ExpectedMisses, score_enough
from colbert_core.types import F32, I64


def made(k: int, missed: float, spread: float, precise_S: F32, coarse_S: F32) -> ExpectedMisses:
    misses = ExpectedMisses(k, np.float32(missed), spread)
    misses.add(precise_S, coarse_S)
    return misses


def expected_missed(
    misses: ExpectedMisses, precise_S: F32, coarse_S: F32, rest_M: F32, unscored_M: F32
) -> float:
    """In plain numbers: how many of `unscored_M`, a part of `rest_M`, are of the top k."""
    errors_S = precise_S.astype(float) - coarse_S
    prior = PRIOR_COUNT * misses.spread**2
    deviation = np.sqrt((prior + len(errors_S) * errors_S.var()) / (PRIOR_COUNT + len(errors_S)))
    low, high = precise_S.min() - 10.0, precise_S.max() + 10 * deviation
    for _ in range(60):
        level = (low + high) / 2
        chances_M = ndtr((rest_M + errors_S.mean() - level) / deviation)
        too_many = (precise_S >= level).sum() + chances_M.sum() > misses.k
        low, high = (level, high) if too_many else (low, level)
    return float(ndtr((unscored_M + errors_S.mean() - low) / deviation).sum())


@pytest.mark.parametrize("missed", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("k", [3, 10, 100])
@pytest.mark.parametrize("seed", range(5))
def test_what_is_left_is_expected_to_hold_what_may_be_missed(
    k: int, missed: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    coarse = np.sort(rng.normal(5, 0.5, 2000))[::-1].astype(np.float32)
    precise = (coarse - 0.4 + rng.normal(0, 0.2, 2000)).astype(np.float32)
    misses = made(k, missed, 0.2, precise[:k], coarse[:k])
    worth = misses.worth_scoring(coarse[k:])
    assert worth.any()
    assert np.all(np.diff(worth.astype(int)) <= 0)  # the best of those that are left
    rest = coarse[k:]
    left = expected_missed(misses, precise[:k], coarse[:k], rest, rest[~worth])
    fewer = rest[rest < rest[worth].min() + 0.05]  # two steps: a quarter of the deviation
    more = expected_missed(misses, precise[:k], coarse[:k], rest, fewer)
    assert left <= missed * k * 1.4
    assert more > missed * k * 0.8


def test_what_is_expected_to_be_missed_is() -> None:
    """Over many queries of normal errors, the share that is missed is about what was said, and
    less: the k-th best of what is scored is not yet that of all."""
    k, missed, found = 10, 0.1, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        coarse = np.sort(rng.normal(5, 0.5, 1000))[::-1].astype(np.float32)
        precise = (coarse - 0.4 + rng.normal(0, 0.1, 1000)).astype(np.float32)
        misses = ExpectedMisses(k, np.float32(missed), 0.1)
        scored, _ = score_enough(np.arange(1000), coarse, misses, precise.__getitem__)
        assert len(scored) < 200
        found.append(len(set(scored) & set(np.argsort(-precise)[:k])) / k)
    assert 0.88 <= np.mean(found) <= 0.98


@given(
    scores=st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    k=st.integers(1, 60),
    missed=st.floats(2**-30, 1, width=32),
    spread=st.sampled_from([0.0, 1e-30, 0.1, 1e12]),
)
def test_equal_scores_and_any_spread(
    scores: list[int], k: int, missed: float, spread: float
) -> None:
    coarse = np.sort(np.array(scores, np.float32))[::-1]
    pids: I64 = np.arange(len(coarse))[::-1].copy()
    k = min(k, len(coarse))
    asked: list[int] = []

    def precise(some: I64) -> F32:
        assert np.all(np.diff(some) > 0)
        asked.extend(some.tolist())
        return (some % 3).astype(np.float32)

    scored, found = score_enough(
        pids, coarse, ExpectedMisses(k, np.float32(missed), spread), precise
    )
    assert sorted(asked) == sorted(scored.tolist())
    assert set(pids[:k]) <= set(scored.tolist())
    np.testing.assert_array_equal(found, scored % 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_none(bad: float) -> None:
    """Of a damaged shard: nothing is raised, and what is no number says nothing."""
    misses = made(2, 0.1, 0.1, np.array([bad, 1, 2], np.float32), np.ones(3, np.float32))
    assert misses.worth_scoring(np.array([0.5, 0.9], np.float32)).all() == (bad == np.inf)
    ordinary = made(2, 0.1, 0.1, np.array([3, 1, 2], np.float32), np.ones(3, np.float32))
    worth = ordinary.worth_scoring(np.array([2.5, bad, 2.5], np.float32))
    assert worth.tolist() == [True, bad == np.inf, True]
