"""When enough is scored precisely: once what is not is expected to hold few of the top k.

Of what is scored, precise minus coarse score says how far wrong coarse ones are for this very
query: by their mean and about their deviation. So an unscored passage of coarse score s is above a
score t with the chance Φ((s + mean − t) / deviation). t is taken where the scored and the unscored
above it are expected to be k, and the unscored ones above t are what is missed.

Chances are counted in units of 1/65,536 and scores in steps of an eighth of the deviation from the
k-th best precise score, so that the counting is one of integers: native and reference stop at the
same passage.

Shapes: M passages that are not scored, S that are, X steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from colbert_core.types import F32, F64, I64, Bool

ROUNDS = 2  # times that more is scored: what is scored then says more of the errors
PRIOR_COUNT = 5.0  # passages that the expected spread counts for beside those that are scored
STEPS = 8  # of one deviation
REACH = 6 * STEPS  # beyond, a chance is 0 or 1
HIGHEST = 512  # steps above the k-th best: what lies further counts as if it lay there
UNIT = 65536  # of a chance of 1

CHANCES: I64 = np.array(
    [
        round(UNIT * 0.5 * math.erfc(-((step + 0.5) / STEPS) * math.sqrt(0.5)))
        for step in range(-REACH, REACH + 1)
    ],
    np.int64,
)
"""Of what lies so many steps above a score, from -REACH on, to be above it."""

_CHANCES_F64: F64 = CHANCES.astype(np.float64)


class ExpectedMisses:
    """What scoring no more is expected to miss.

    Args:
        k: hits wanted.
        missed: the share of them that may be missed, above 0.
        spread: the deviation that is expected before anything is scored, at least 0.
    """

    def __init__(self, k: int, missed: np.float32, spread: float) -> None:
        self.k, self.spread = k, spread
        self.allowed = math.floor(float(missed) * k * UNIT)
        self.scored_S = np.zeros(0, np.float32)
        self.total = self.squares = 0.0

    def add(self, precise_S: F32, coarse_S: F32) -> None:
        """Both scores of passages that have been scored precisely."""
        errors_S = precise_S.astype(np.float64) - coarse_S
        self.total = _add_up(self.total, errors_S)
        self.squares = _add_up(self.squares, errors_S * errors_S)
        self.scored_S = np.concatenate([self.scored_S, precise_S])

    def worth_scoring(self, coarse_M: F32) -> Bool:
        """Which of those that are not scored have to be, bool [M]. At least k are scored."""
        count = len(self.scored_S)
        mean = self.total / count
        about_mean = max(0.0, self.squares - self.total * mean)
        known = PRIOR_COUNT * (self.spread * self.spread) + about_mean
        step = math.sqrt(known / (PRIOR_COUNT + count)) / STEPS
        if not step > 0:
            return np.zeros(len(coarse_M), np.bool_)
        kth = float(np.sort(self.scored_S)[count - self.k])
        above_S = _steps((self.scored_S.astype(np.float64) - kth) / step)
        above_M = _steps((coarse_M.astype(np.float64) + (mean - kth)) / step)
        scored_X = np.bincount(above_S + REACH + 1, minlength=HIGHEST + REACH + 2)
        rest_X = np.bincount(above_M + REACH + 1, minlength=HIGHEST + REACH + 2)
        scored_X, rest_X = scored_X[1:], rest_X[1:]  # without what is below reach
        cut = _cut(rest_X, _level(scored_X, rest_X, self.k), self.allowed)
        worth_M: Bool = above_M >= cut
        return worth_M


def score_enough(
    pids: I64, coarse: F32, misses: ExpectedMisses, precise: Callable[[I64], F32]
) -> tuple[I64, F32]:
    """Of candidates, the best by coarse score first, those that were scored, and their scores.

    Args:
        pids, coarse: int64 and float32 [M]; at least as many as hits are wanted.
        misses: to which nothing has been added.
        precise: the precise scores of passages, which it is given by ascending pid.
    """
    order = np.concatenate([np.argsort(pids[: misses.k]), np.arange(misses.k, len(pids))])
    fresh, scores = misses.k, np.zeros(0, np.float32)
    for rounds_left in range(ROUNDS, -1, -1):
        some = order[len(scores) : fresh]
        of_some = precise(pids[some])
        misses.add(of_some, coarse[some])
        scores, rest = np.concatenate([scores, of_some]), order[fresh:]
        worth = misses.worth_scoring(coarse[rest])
        if rounds_left == 0 or not worth.any():
            break
        more = rest[worth][np.argsort(pids[rest[worth]])]
        order = np.concatenate([order[:fresh], more, rest[~worth]])
        fresh += len(more)
    return pids[order[: len(scores)]], scores


def _add_up(total: float, values_S: np.ndarray) -> float:
    """One after the other."""
    return float(np.cumsum(np.concatenate([[total], values_S]))[-1])


def _steps(steps: np.ndarray) -> I64:
    """Whole steps, those below reach as one below; so is what is not a number."""
    with np.errstate(invalid="ignore"):
        inside = np.where(steps >= -REACH, np.minimum(np.floor(steps), HIGHEST), -REACH - 1)
    return inside.astype(np.int64)


def _level(scored_X: I64, rest_X: I64, k: int) -> int:
    """The lowest step that no more than k are expected to reach; the higher, the fewer do."""
    # In float64, which multiplies faster and holds integers below 2^53: 2^37 passages.
    near_X = np.correlate(np.pad(rest_X.astype(np.float64), (0, 2 * REACH)), _CHANCES_F64)
    expected_X = near_X.astype(np.int64)  # of what is within reach of each step from 0 on
    beyond_X = _from_each(rest_X)[2 * REACH + 1 :]
    expected_X[: len(beyond_X)] += UNIT * beyond_X
    expected_X[: HIGHEST + 1] += UNIT * _from_each(scored_X)[REACH:]
    return int(np.count_nonzero(expected_X > k * UNIT))


def _from_each(counts_X: I64) -> I64:
    """How many lie at each step or above."""
    return np.cumsum(counts_X[::-1])[::-1]


def _chances(rest_X: I64, level: int) -> I64:
    """How many of each step are expected at the level or above, in units."""
    steps_X = np.arange(-REACH, HIGHEST + 1) - level
    chances_X = np.where(steps_X < -REACH, 0, CHANCES[np.clip(steps_X + REACH, 0, 2 * REACH)])
    expected: I64 = rest_X * chances_X
    return expected


def _cut(rest_X: I64, level: int, allowed: int) -> int:
    """The lowest step that has to be scored so that what is below misses no more than allowed."""
    missed_X = np.cumsum(_chances(rest_X, level))
    return int(np.count_nonzero(missed_X <= allowed)) - REACH
