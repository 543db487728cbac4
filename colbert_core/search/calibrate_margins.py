"""The margins that reach a recall, and what one query has compared and scored within them.

Shapes: L query tokens, D dimensions, Q queries, O options, S shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.codec import Codec
from colbert_core.index import ShardReader
from colbert_core.search.calibrate_gaps import NPROBES, Key, best_of, kth_best
from colbert_core.search.pseudo_queries import WINDOW
from colbert_core.types import F32, I32, AnyArray

RECALLS = (0.80, 0.90, 0.95, 0.98, 0.99)
# What pseudo-queries must get for real ones to get that: real ones differ more among themselves.
TARGETS = dict(zip(RECALLS, (0.765, 0.90, 0.955, 0.986, 0.994), strict=True))
WIDEST_MARGIN = 10.0  # where probes do not lead to enough hits: leaves nothing out
MISSED_BY_POSTINGS = (0.2, 0.4, 0.7)  # shares of all that may be missed
STEEPER = 1.25  # the most that the last step may grow, beside the one before it


@dataclass(frozen=True)
class Option:
    """One way to reach a recall: two margins, the share of hits that both keep, and whether it is
    what the recall takes."""

    recall: float
    nprobe: int
    k: int
    margin: float
    interaction_margin: float
    overlap: float
    enough: bool


def options_of(key: Key, gaps: Mapping[Key, F32]) -> list[Option]:
    """For each recall, the margins that keep it, by how much the first of them may miss."""
    nprobe, k = key
    by_estimate, by_interaction = np.moveaxis(gaps[key], 1, 0)
    by_recall: dict[float, list[Option]] = {recall: [] for recall in RECALLS}
    for share in MISSED_BY_POSTINGS:
        needed = [_margins(gaps[key], TARGETS[recall], share) for recall in RECALLS]
        taken = [*needed[:-1], _capped(needed)]
        for recall, wanted, (margin, interaction_margin) in zip(
            RECALLS, needed, taken, strict=True
        ):
            kept = (by_estimate <= margin) & (by_interaction <= interaction_margin)
            overlap = float(np.mean(kept))
            enough = overlap >= TARGETS[recall] or max(wanted) < WIDEST_MARGIN
            by_recall[recall].append(
                Option(recall, nprobe, k, margin, interaction_margin, overlap, enough)
            )
    return [option for recall in RECALLS for option in by_recall[recall]]


def _capped(needed: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The margins of the highest recall: no more than the step before lets expect.

    A handful of gaps decide them, which may be of two or three pseudo-queries like no question.

    Margins grow evenly with the logarithm of what may be missed.
    """
    nines = [-np.log1p(-TARGETS[recall]) for recall in RECALLS[-3:]]
    step = STEEPER * (nines[2] - nines[1]) / (nines[1] - nines[0])
    expected = [two + step * (two - one) for one, two in zip(needed[-3], needed[-2], strict=True)]
    margin, interaction_margin = map(min, needed[-1], expected)
    return float(margin), float(interaction_margin)


def _margins(gaps_Q2k: F32, recall: float, share: float) -> tuple[float, float]:
    """The margins that together keep `recall` of the hits, where the first misses `share` of what
    both do."""
    by_estimate, by_interaction = np.moveaxis(gaps_Q2k, 1, 0).reshape(2, -1)
    needed = int(np.ceil(recall * by_estimate.size))
    first = int(np.ceil((1 - share * (1 - recall)) * by_estimate.size))
    margin = min(WIDEST_MARGIN, float(np.sort(by_estimate)[first - 1]))
    kept = np.sort(by_interaction[by_estimate <= margin])
    if not len(kept):
        return WIDEST_MARGIN, WIDEST_MARGIN
    second = float(kept[min(needed, len(kept)) - 1])
    return max(0.0, margin), min(WIDEST_MARGIN, max(0.0, second))


def counts_of(
    shards: Sequence[ShardReader],
    codec: Codec,
    Q_LD: F32,
    options: Mapping[Key, Sequence[Option]],
) -> dict[Key, AnyArray]:
    """How many passages each option compares and scores in each shard, int64 [2, O, S]."""
    root = float(len(Q_LD) ** 0.5)
    counts: dict[Key, AnyArray] = {
        key: np.zeros((2, len(of), len(shards)), np.int64) for key, of in options.items()
    }
    for nprobe in NPROBES:
        probes = codec.centroid_table.probe(Q_LD, nprobe)
        mine = {key: of for key, of in options.items() if key[0] == nprobe}
        for index, shard in enumerate(shards):
            best, estimates, scores = _candidates(shard, Q_LD, probes, mine)
            for (key, at), floor in _floors(best, mine, root).items():
                compared = scores[estimates >= floor]
                slack = options[key][at].interaction_margin * root
                within = compared >= kth_best(compared, key[1]) - slack
                counts[key][:, at, index] = len(compared), np.count_nonzero(within)
    return counts


def _candidates(
    shard: ShardReader,
    Q_LD: F32,
    probes: tuple[I32, F32],
    options: Mapping[Key, Sequence[Option]],
) -> tuple[F32, F32, F32]:
    """The best estimates of a shard; and the estimates, and the scores by interaction, of all that
    an option compares, and of some more: those that looked as if, while windows were to come."""
    most = max(k for _, k in options)
    best, kept = np.zeros(0, np.float32), [(np.zeros(0, np.float32),) * 2]
    for first in range(0, shard.passages, WINDOW):
        last = min(first + WINDOW, shard.passages)
        pids, estimates = shard.kernel.approximate(Q_LD, *probes, None, first, last)
        best = best_of(best, estimates, most)
        # Of fewer than k, the least may be better than the k-th of more.
        ends = last == shard.passages or len(best) >= most
        floor = min(_floors(best, options, float(len(Q_LD) ** 0.5)).values()) if ends else -np.inf
        looked_at = estimates >= floor
        kept.append((estimates[looked_at], shard.kernel.interaction(Q_LD, pids[looked_at])))
    estimates, scores = (np.concatenate(part) for part in zip(*kept, strict=True))
    return best, estimates, scores


def _floors(
    best: F32, options: Mapping[Key, Sequence[Option]], root: float
) -> dict[tuple[Key, int], np.float32]:
    """The estimate below which each option, by key and place, leaves a passage out."""
    return {
        (key, at): kth_best(best, key[1]) - option.margin * root
        for key, of in options.items()
        for at, option in enumerate(of)
    }
