"""The margins that keep what a recall takes, and what one query has compared and scored.

Shapes: L query tokens, D dimensions, Q queries, O options, S shards, M candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.codec import Codec
from colbert_core.index import ShardReader
from colbert_core.index.presets import kept_for, missed_for
from colbert_core.reference.stopping import ExpectedMisses, score_enough
from colbert_core.search.calibrate_gaps import NPROBES, Key, best_of, kth_best
from colbert_core.search.pseudo_queries import WINDOW, TrialQuery
from colbert_core.types import F32, I32, I64, AnyArray

RECALLS = (0.80, 0.90, 0.95, 0.98, 0.99)
WIDEST_MARGIN = 10.0  # where probes do not lead to enough hits: leaves nothing out
MOST_OVER_NEEDED = 2  # caps what is compared, beside what a number for all queries would have to be
STEEPER = 1.25  # the most that the last step may grow, beside the one before it


@dataclass(frozen=True)
class Option:
    """One way to reach a recall: a margin, the share of hits that it keeps, how many passages of a
    shard are worth comparing at most, what scoring may be expected to miss, and whether the probes
    lead to as many hits as it takes."""

    recall: float
    nprobe: int
    k: int
    margin: float
    most: float
    missed: float
    kept: float
    enough: bool


def options_of(key: Key, gaps_Qk: F32, ranks_Qk: F32) -> list[Option]:
    """For each recall, the margin that keeps what it takes, and the most that are compared."""
    nprobe, k = key
    needed = [_margin(gaps_Qk, kept_for(recall)) for recall in RECALLS]
    return [
        Option(
            recall,
            nprobe,
            k,
            margin,
            MOST_OVER_NEEDED * _holding(ranks_Qk, kept_for(recall)),
            missed_for(recall),
            float(np.mean(gaps_Qk <= margin)),
            wanted < WIDEST_MARGIN,
        )
        for recall, wanted, margin in zip(
            RECALLS, needed, [*needed[:-1], _capped(needed)], strict=True
        )
    ]


def _capped(needed: Sequence[float]) -> float:
    """The margin of the highest recall: no more than the step before lets expect.

    A handful of gaps decide it, which may be of two or three pseudo-queries like no question.

    Margins grow evenly with the logarithm of what may be missed.
    """
    nines = [-np.log1p(-kept_for(recall)) for recall in RECALLS[-3:]]
    step = STEEPER * (nines[2] - nines[1]) / (nines[1] - nines[0])
    return float(min(needed[-1], needed[-2] + step * (needed[-2] - needed[-3])))


def _margin(gaps_Qk: F32, share: float) -> float:
    """The margin that keeps a share of the hits."""
    return min(WIDEST_MARGIN, max(0.0, _holding(gaps_Qk, share)))


def _holding(values_Qk: F32, share: float) -> float:
    """The least that a share of the hits does not exceed."""
    return float(np.sort(values_Qk, axis=None)[int(np.ceil(share * values_Qk.size)) - 1])


def counts_of(
    shards: Sequence[ShardReader],
    codec: Codec,
    query: TrialQuery,
    options: Mapping[Key, Sequence[Option]],
    spreads: Mapping[int, float],
) -> dict[Key, AnyArray]:
    """How many passages each option compares and scores in each shard, int64 [2, O, S].

    Args:
        spreads: by k, as in `Preset`.
    """
    Q_LD, length = query.Q_LD, query.length
    counts: dict[Key, AnyArray] = {
        key: np.zeros((2, len(of), len(shards)), np.int64) for key, of in options.items()
    }
    for index, shard in enumerate(shards):
        scorer = _Scorer(shard, Q_LD)
        for nprobe in NPROBES:
            probes = codec.centroid_table.probe(Q_LD, nprobe)
            mine = {key: of for key, of in options.items() if key[0] == nprobe}
            best, pids, estimates, scores = _candidates(shard, query, probes, mine)
            for (key, at), floor in _floors(best, mine, length).items():
                compared = np.flatnonzero(estimates >= floor)
                spread = spreads[key[1]] * length
                misses = ExpectedMisses(key[1], np.float32(options[key][at].missed), spread)
                scored = scorer.count(pids[compared], scores[compared], misses)
                counts[key][:, at, index] = len(compared), scored
    return counts


class _Scorer:
    """Precise scores of a shard's passages for one query, each computed once."""

    def __init__(self, shard: ShardReader, Q_LD: F32) -> None:
        self._kernel, self._Q_LD = shard.kernel, Q_LD
        self._scores_N = np.full(shard.passages, np.nan, np.float32)

    def count(self, pids: I64, coarse: F32, misses: ExpectedMisses) -> int:
        """How many of these candidates a search scores."""
        if len(pids) <= misses.k:
            return len(pids)
        order = np.lexsort((pids, -coarse))
        return len(score_enough(pids[order], coarse[order], misses, self._precise)[0])

    def _precise(self, pids: I64) -> F32:
        unknown = pids[np.isnan(self._scores_N[pids])]
        if len(unknown):
            self._scores_N[unknown] = self._kernel.score(self._Q_LD, unknown)
        return self._scores_N[pids]


def _candidates(
    shard: ShardReader,
    query: TrialQuery,
    probes: tuple[I32, F32],
    options: Mapping[Key, Sequence[Option]],
) -> tuple[F32, I64, F32, F32]:
    """The best estimates of a shard; and passages, their estimates and scores by interaction: all
    that an option compares, and some that looked as if, while windows were to come."""
    Q_LD, most = query.Q_LD, max(k for _, k in options)
    best = np.zeros(0, np.float32)
    kept = [(np.zeros(0, np.int64), best, best)]
    for first in range(0, shard.passages, WINDOW):
        last = min(first + WINDOW, shard.passages)
        live_W = None if shard.live_N is None else shard.live_N[first:last]
        pids, estimates = shard.kernel.approximate(Q_LD, *probes, live_W, first, last)
        best = best_of(np.concatenate([best, estimates]), most)
        # Of fewer than k, the least may be better than the k-th of more.
        ends = last == shard.passages or len(best) >= most
        floor = min(_floors(best, options, query.length).values()) if ends else -np.inf
        looked_at = estimates >= floor
        pids, estimates = pids[looked_at], estimates[looked_at]
        kept.append((pids, estimates, shard.kernel.interaction(Q_LD, pids)))
    pids, estimates, scores = (np.concatenate(part) for part in zip(*kept, strict=True))
    return best, pids, estimates, scores


def _floors(
    best: F32, options: Mapping[Key, Sequence[Option]], length: float
) -> dict[tuple[Key, int], np.float32]:
    """The estimate below which each option, by key and place, leaves a passage out."""
    return {
        (key, at): kth_best(best, key[1]) - option.margin * length
        for key, of in options.items()
        for at, option in enumerate(of)
    }
