"""Which passages go on: estimates by postings, a margin behind the k-th best, the one tie-break."""

from __future__ import annotations

import numpy as np

from colbert_core.reference.arithmetic import sum_over_query
from colbert_core.reference.checks import require
from colbert_core.types import F32, I64

FINEST_ADDEND = 2**20
"""The largest addend of a candidate's score in integer units: 1024 of them fit in 31 bits."""

LARGEST_TOTAL = 2**31

SMALLEST_RANGE = np.float32(1e-30)  # of probe scores; below, all gains count as equal
MOST = 2**63 - 1  # where nothing is limited
MOST_SPREAD = 1e6


def addend_factor(scores_LP: F32) -> np.float32:
    """Integer units of a candidate's total per unit of score; 0 where all probes score alike."""
    widest = (scores_LP[:, 0] - scores_LP[:, -1]).max()
    return np.float32(FINEST_ADDEND) / widest if widest >= SMALLEST_RANGE else np.float32(0)


def best(pids: I64, scores: F32, k: int) -> tuple[I64, F32]:
    """The best k: score descending, then smaller passage."""
    order = np.lexsort((pids, -scores))[:k]
    return pids[order].astype(np.int64), scores[order]


def estimates_of(totals: I64, scores_LP: F32) -> F32:
    """Scores, float32, of integer totals: above what the last probes of all tokens would give."""
    base, factor = sum_over_query(scores_LP[:, -1]), addend_factor(scores_LP)
    gains = totals.astype(np.float32) / factor if factor > 0 else np.zeros(len(totals), np.float32)
    estimates: F32 = base + gains
    return estimates


def check_margin(margin: float) -> np.float32:
    require(margin >= 0, "margin must be a number of at least 0")
    with np.errstate(over="ignore"):
        return np.float32(margin)


def check_stopping(missed: float, spread: float) -> tuple[np.float32, np.float32]:
    require(0 <= missed <= 1, "missed must be a share from 0 to 1")
    require(0 <= spread <= MOST_SPREAD, "spread must lie between 0 and 1e6")
    return np.float32(missed), np.float32(spread)
