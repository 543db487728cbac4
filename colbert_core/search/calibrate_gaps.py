"""How far behind the k-th best of their shard the exact hits of one query fall, by the estimate by
which postings choose candidates; and how far centroid interaction is from precise scores.

Shapes: L query tokens, D dimensions, W passages of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.codec import Codec
from colbert_core.search.pseudo_queries import Sample, TrialQuery
from colbert_core.types import F32, I32, AnyArray

NPROBES = (8, 16, 32, 64)  # with fewer, pseudo-queries say little of real ones
SIFTED_PER_HIT, SIFTED_BESIDE = 4, 256  # scored precisely of a shard, to find the exact top k

Key = tuple[int, int]  # (nprobe, k)
Compared = tuple[AnyArray, F32, F32]  # passages; their scores by interaction, and precise


@dataclass(frozen=True)
class Gaps:
    """What one query tells.

    Attributes:
        behind: by (nprobe, k), how far behind their shard's k-th best each of the exact top k falls
            by estimate, over √Σ‖q‖², float32 [k]; infinite for a hit that no probe leads to.
        ranks: by (nprobe, k), how many passages of their shard, of all that it has, are estimated
            no worse than each of these, float32 [k]; infinite likewise.
        variance: by k, of precise scores minus those by interaction, over Σ‖q‖²: of the best k of
            each shard, the mean.
    """

    behind: Mapping[Key, F32]
    ranks: Mapping[Key, F32]
    variance: Mapping[int, float]


def gaps_of(sample: Sample, codec: Codec, query: TrialQuery, ks: Sequence[int]) -> Gaps:
    """What one query tells of a sample of the passages.

    The passage that a query was made from does not count, and k shrinks with the sample: the best
    of many passages lie closer together.
    """
    Q_LD, shards = query.Q_LD, sample.shards
    shrunk = [max(1, round(k * sample.share_for(query))) for k in ks]
    compared = [
        _sifted(sample, index, query, SIFTED_PER_HIT * shrunk[-1] + SIFTED_BESIDE)
        for index in range(len(shards))
    ]
    hits = _exact_hits(compared, shrunk[-1])
    behind: dict[Key, F32] = {}
    ranks: dict[Key, F32] = {}
    for nprobe in NPROBES:
        probes = codec.centroid_table.probe(Q_LD, nprobe)
        scores, bests = np.empty(len(hits), np.float32), []
        ranked = np.empty(len(hits), np.float32)
        for index in range(len(shards)):
            here = hits[:, 0] == index
            found = _estimates(sample, index, query, probes, hits[here, 1], shrunk[-1])
            scores[here], ranked[here] = found[:2]
            bests.append(found[2])
        for k, gaps in zip(ks, _behind(hits, scores, bests, shrunk), strict=True):
            behind[nprobe, k] = (gaps / query.length).astype(np.float32)
            ranks[nprobe, k] = ranked[: len(gaps)] / np.float32(sample.share_for(query))
    variance = {
        k: float(np.mean([_variance(of, rank) for of in compared if len(of[0])])) / query.length**2
        for k, rank in zip(ks, shrunk, strict=True)
    }
    return Gaps(behind, ranks, variance)


def _variance(compared: Compared, rank: int) -> float:
    """Of precise scores minus those by interaction, of the best by interaction."""
    _, coarse, precise = compared
    return float(np.var((precise - coarse)[:rank].astype(np.float64)))


def _sifted(sample: Sample, index: int, query: TrialQuery, most: int) -> Compared:
    """The best `most` of a shard by interaction; of equal ones the first."""
    kernel = sample.shards[index].kernel
    pids, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for first, allowed_W in sample.windows(index, query):
        of_window = first + np.flatnonzero(allowed_W)
        scores_of = kernel.interaction(query.Q_LD, of_window)
        good = scores_of >= kth_best(scores_of, most)
        pids = np.concatenate([pids, of_window[good]])
        scores = np.concatenate([scores, scores_of[good]])
        best = np.argsort(-scores, kind="stable")[:most]
        pids, scores = pids[best], scores[best]
    return pids, scores, kernel.score(query.Q_LD, pids)


def _exact_hits(compared: Sequence[Compared], count: int) -> AnyArray:
    """The best `count` by precise score, int64 [count, 2] of (shard, passage), among those that
    interaction puts within several times as many."""
    found: list[tuple[float, int, int]] = []
    for index, (pids, _, precise) in enumerate(compared):
        found += zip((-precise).tolist(), [index] * len(pids), pids.tolist(), strict=True)
    hits: AnyArray = np.array([(index, pid) for _, index, pid in sorted(found)[:count]], np.int64)
    return hits


def _estimates(
    sample: Sample,
    index: int,
    query: TrialQuery,
    probes: tuple[I32, F32],
    wanted: AnyArray,
    most: int,
) -> tuple[F32, F32, F32]:
    """What postings say of some passages of a shard, minus infinity of those that no probe leads
    to; how many passages they put no lower, infinity likewise; and the best `most` scores."""
    scores, every = np.full(len(wanted), -np.inf, np.float32), [np.zeros(0, np.float32)]
    for first, allowed_W in sample.windows(index, query):
        last = first + len(allowed_W)
        kernel = sample.shards[index].kernel
        pids, estimates = kernel.approximate(query.Q_LD, *probes, allowed_W, first, last)
        here = (wanted >= first) & (wanted < last)
        scores[here] = _look_up(wanted[here], pids, estimates)
        every.append(estimates)
    estimates = np.concatenate(every)
    reached = scores > -np.inf
    lowest = scores[reached].min(initial=np.inf)
    good = np.sort(estimates[estimates >= lowest])
    ranks = np.where(reached, len(good) - np.searchsorted(good, scores), np.inf)
    return scores, ranks.astype(np.float32), best_of(estimates, most)


def _behind(hits: AnyArray, scores: F32, bests: Sequence[F32], ks: Sequence[int]) -> list[AnyArray]:
    """For each k, how far the scores of the first k hits, as (shard, passage), lie below the k-th
    best of their shard."""
    kth = np.full((len(ks), len(hits)), np.inf, np.float32)
    for shard, of_shard in enumerate(bests):
        kth[:, hits[:, 0] == shard] = [[kth_best(of_shard, k)] for k in ks]
    return [(best - scores)[:k] for k, best in zip(ks, kth, strict=True)]


def _look_up(wanted: AnyArray, pids: AnyArray, scores: F32) -> F32:
    """The scores of passages among ascending `pids`; of others, minus infinity."""
    if not len(pids):
        return np.full(len(wanted), -np.inf, np.float32)
    places = np.minimum(np.searchsorted(pids, wanted), len(pids) - 1)
    found: F32 = np.where(pids[places] == wanted, scores[places], np.float32(-np.inf))
    return found


def best_of(scores: F32, most: int) -> F32:
    """The best `most`, in no order."""
    return np.partition(scores, len(scores) - most)[-most:] if len(scores) > most else scores


def kth_best(scores: F32, k: int) -> np.float32:
    """The k-th best of the scores, the last where there are fewer."""
    if not len(scores):
        return np.float32(0)
    last = max(0, len(scores) - k)
    return np.float32(np.partition(scores, last)[last])
