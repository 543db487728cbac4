"""Presets of an index, measured on the index itself: what each recall target takes.

There are no queries when an index is built, so they are made from its passages. Their exact top k
come from exhaustive search, and two scores say how far behind the k-th best each of them falls: the
estimate by which postings choose candidates, and the score by centroid interaction by which
candidates are chosen for precise scoring. Such a gap over √(query tokens) is an error of the
centroids: unlike the number of candidates, it hardly depends on the query, on k, on how many
passages there are, or on how the queries were made. So the two margins that together keep a share
`recall` of the pseudo-queries' hits keep that share of real ones. How much of what may be missed is
missed by the first, the cheapest combination decides. docs/decisions/recall-presets.md has the
measurements.

A shard is looked at in windows of its passages, so that memory does not grow with them.

Shapes: L query tokens, D dimensions, N passages of a shard, W of a window, Q queries, O options,
S shards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from colbert_core import kernels
from colbert_core.codec import Codec
from colbert_core.index import Preset, ShardReader
from colbert_core.search.pseudo_queries import (
    WINDOW,
    PseudoQuery,
    Sample,
    draw_sample,
    pseudo_queries,
)
from colbert_core.types import F32, I32, AnyArray

RECALLS = (0.80, 0.90, 0.95, 0.98, 0.99)
# What pseudo-queries must get for real ones to get that: real ones differ more among themselves.
TARGETS = dict(zip(RECALLS, (0.765, 0.90, 0.955, 0.986, 0.994), strict=True))
KS = (10, 100, 1000)
NPROBES = (8, 16, 32, 64)  # with fewer, pseudo-queries say little of real ones

QUERIES = 256
COUNTED_EVERY = 4  # query, to see how many candidates a margin leaves
FEWEST_PASSAGES = 512  # below, searching is cheap and measuring is noise
SAMPLE_TOKENS = 1 << 22  # most that queries are compared with; of more, a sample of the passages
PASSAGES_PER_HIT = 8  # for the top k to be a part of the index
THREADS_BYTES = 1 << 30
CANDIDATE_BYTES = 16  # of a thread: two scores, and those that an option leaves
SIFTED_PER_HIT, SIFTED_BESIDE = 4, 256  # scored precisely of a shard, to find the exact top k

WIDEST_MARGIN = 10.0  # where probes do not lead to enough hits: leaves nothing out
MISSED_BY_POSTINGS = (0.2, 0.4, 0.7)  # shares of all that may be missed
MOST_OVER_MEDIAN = 4  # the caps, beside what the margins leave of the usual query
# What things cost in tokens scored precisely, as measured.
PROBE_COST, LIST_COST, POSTING_COST, INTERACTION_COST = 10.0, 1.0, 0.15, 0.2
MORE_PROBES_PAY = 1.25  # pseudo-queries flatter many probes: fewer are taken at up to this cost

Key = tuple[int, int]  # (nprobe, k)


def calibrate(shards: Sequence[ShardReader], codec: Codec, seed: int = 0) -> tuple[Preset, ...]:
    """The presets of an index, by k and recall; none for an index that is small.

    The same shards and seed give the same presets, on any number of processors.

    Args:
        shards: all of the index, in the order of the corpus.
        codec: of these shards.
        seed: of the queries, and of the sample of a large index.
    """
    passages = sum(shard.passages for shard in shards)
    if passages < FEWEST_PASSAGES or kernels.isa() == "reference":
        return ()  # the reference is for comparing with: too slow to search exhaustively
    rng = np.random.default_rng(seed)
    sample = draw_sample(shards, SAMPLE_TOKENS, rng)
    queries = pseudo_queries(sample, QUERIES, rng)
    ks = [k for k in KS if k == KS[0] or PASSAGES_PER_HIT * k <= passages]
    threads = _threads(shards)
    gaps = _over(queries, lambda query: _gaps(sample, codec, query, ks), threads)
    options = {key: _options(key, gaps) for key in gaps}
    counts = _over(
        queries[::COUNTED_EVERY], lambda query: _counts(shards, codec, query.Q_LD, options), threads
    )
    costs = _Costs.of(shards, codec, queries)
    presets = []
    for k in ks:
        for recall in RECALLS:
            priced = [
                _price(option, counts[nprobe, k][:, :, at], costs)
                for nprobe in NPROBES
                for at, option in enumerate(options[nprobe, k])
                if option.recall == recall
            ]
            presets.append(_cheapest(priced))
    return tuple(presets)


def _threads(shards: Sequence[ShardReader]) -> int:
    """As many as there are processors, and memory for the candidates of each, if all passages of a
    shard were some."""
    passages = max(shard.passages for shard in shards)
    return max(1, min(os.cpu_count() or 1, THREADS_BYTES // (CANDIDATE_BYTES * passages)))


def _over(
    queries: Sequence[PseudoQuery],
    measure: Callable[[PseudoQuery], Mapping[Key, AnyArray]],
    threads: int,
) -> dict[Key, AnyArray]:
    """What is measured of every query, stacked."""
    stacked: dict[Key, AnyArray] = {}
    with ThreadPoolExecutor(threads) as pool:
        for at, measured in enumerate(pool.map(measure, queries)):
            for key, values in measured.items():
                if key not in stacked:
                    stacked[key] = np.empty((len(queries), *values.shape), values.dtype)
                stacked[key][at] = values
    return stacked


# ---------------------------------------------------------------- what one query shows


def _gaps(
    sample: Sample, codec: Codec, query: PseudoQuery, ks: Sequence[int]
) -> dict[Key, AnyArray]:
    """How far behind their shard's k-th best each of the exact top k falls, over √L: float32
    [2, k], by estimate and by interaction. Infinite for a hit that no probe leads to.

    The passage that the query was made from does not count, and k shrinks with the sample: the best
    of many passages lie closer together.
    """
    Q_LD, shards = query.Q_LD, sample.shards
    ranks = [max(1, round(k * sample.share_beside(1))) for k in ks]
    compared = [
        _sifted(sample, index, query, SIFTED_PER_HIT * ranks[-1] + SIFTED_BESIDE)
        for index in range(len(shards))
    ]
    hits, scores = _exact_hits(sample, Q_LD, compared, ranks[-1])
    by_interaction = _behind(hits, scores, [best for _, best in compared], ranks)
    gaps: dict[Key, AnyArray] = {}
    for nprobe in NPROBES:
        probes = codec.centroid_table.probe(Q_LD, nprobe)
        scores, bests = np.empty(len(hits), np.float32), []
        for index in range(len(shards)):
            here = hits[:, 0] == index
            found = _estimates(sample, index, query, probes, hits[here, 1], ranks[-1])
            scores[here] = found[0]
            bests.append(found[1])
        by_estimate = _behind(hits, scores, bests, ranks)
        for k, both in zip(ks, zip(by_estimate, by_interaction, strict=True), strict=True):
            gaps[nprobe, k] = np.stack(both) / np.float32(len(Q_LD) ** 0.5)
    return gaps


def _sifted(sample: Sample, index: int, query: PseudoQuery, most: int) -> tuple[AnyArray, F32]:
    """The best `most` of a shard by interaction, and their scores; of equal ones the first."""
    pids, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    for first, allowed_W in sample.windows(index, query):
        of_window = first + np.flatnonzero(allowed_W)
        scores_of = sample.shards[index].kernel.interaction(query.Q_LD, of_window)
        good = scores_of >= _kth_best(scores_of, most)
        pids = np.concatenate([pids, of_window[good]])
        scores = np.concatenate([scores, scores_of[good]])
        best = np.argsort(-scores, kind="stable")[:most]
        pids, scores = pids[best], scores[best]
    return pids, scores


def _exact_hits(
    sample: Sample, Q_LD: F32, compared: Sequence[tuple[AnyArray, F32]], count: int
) -> tuple[AnyArray, F32]:
    """The best `count` by precise score, int64 [count, 2] of (shard, passage), and their scores by
    interaction: looked for among those that it puts within several times as many."""
    found: list[tuple[float, int, int, float]] = []
    for index, (pids, scores) in enumerate(compared):
        precise = sample.shards[index].kernel.score(Q_LD, pids)
        shard = [index] * len(pids)
        found += zip((-precise).tolist(), shard, pids.tolist(), scores.tolist(), strict=True)
    best = sorted(found)[:count]
    hits: AnyArray = np.array([(index, pid) for _, index, pid, _ in best], np.int64)
    return hits, np.array([score for *_, score in best], np.float32)


def _estimates(
    sample: Sample,
    index: int,
    query: PseudoQuery,
    probes: tuple[I32, F32],
    wanted: AnyArray,
    most: int,
) -> tuple[F32, F32]:
    """What postings say of some passages of a shard, minus infinity of those that no probe leads
    to; and the best `most` of the shard."""
    scores, best = np.full(len(wanted), -np.inf, np.float32), np.zeros(0, np.float32)
    for first, allowed_W in sample.windows(index, query):
        last = first + len(allowed_W)
        kernel = sample.shards[index].kernel
        pids, estimates = kernel.approximate(query.Q_LD, *probes, allowed_W, first, last)
        here = (wanted >= first) & (wanted < last)
        scores[here] = _look_up(wanted[here], pids, estimates)
        best = _best(best, estimates, most)
    return scores, best


def _behind(hits: AnyArray, scores: F32, bests: Sequence[F32], ks: Sequence[int]) -> list[AnyArray]:
    """For each k, how far the scores of the first k hits, as (shard, passage), lie below the k-th
    best of their shard."""
    kth = np.full((len(ks), len(hits)), np.inf, np.float32)
    for shard, of_shard in enumerate(bests):
        kth[:, hits[:, 0] == shard] = [[_kth_best(of_shard, k)] for k in ks]
    return [(best - scores)[:k] for k, best in zip(ks, kth, strict=True)]


def _look_up(wanted: AnyArray, pids: AnyArray, scores: F32) -> F32:
    """The scores of passages among ascending `pids`; of others, minus infinity."""
    if not len(pids):
        return np.full(len(wanted), -np.inf, np.float32)
    places = np.minimum(np.searchsorted(pids, wanted), len(pids) - 1)
    found: F32 = np.where(pids[places] == wanted, scores[places], np.float32(-np.inf))
    return found


def _best(scores: F32, more: F32, most: int) -> F32:
    """The best `most` of both, in no order."""
    scores = np.concatenate([scores, more])
    return np.partition(scores, len(scores) - most)[-most:] if len(scores) > most else scores


def _kth_best(scores: F32, k: int) -> np.float32:
    """The k-th best of the scores, the last where there are fewer."""
    if not len(scores):
        return np.float32(0)
    last = max(0, len(scores) - k)
    return np.float32(np.partition(scores, last)[last])


@dataclass(frozen=True)
class _Option:
    """One way to reach a recall: two margins, and the share of hits that both keep."""

    recall: float
    nprobe: int
    k: int
    margin: float
    interaction_margin: float
    overlap: float


def _options(key: Key, gaps: Mapping[Key, F32]) -> list[_Option]:
    """For each recall, the margins that keep it, by how much the first of them may miss."""
    nprobe, k = key
    options = []
    for recall in RECALLS:
        for share in MISSED_BY_POSTINGS:
            margin, interaction_margin = _margins(gaps[key], TARGETS[recall], share)
            by_estimate, by_interaction = np.moveaxis(gaps[key], 1, 0)
            kept = (by_estimate <= margin) & (by_interaction <= interaction_margin)
            options.append(
                _Option(recall, nprobe, k, margin, interaction_margin, float(np.mean(kept)))
            )
    return options


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


def _counts(
    shards: Sequence[ShardReader],
    codec: Codec,
    Q_LD: F32,
    options: Mapping[Key, Sequence[_Option]],
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
                within = compared >= _kth_best(compared, key[1]) - slack
                counts[key][:, at, index] = len(compared), np.count_nonzero(within)
    return counts


def _candidates(
    shard: ShardReader,
    Q_LD: F32,
    probes: tuple[I32, F32],
    options: Mapping[Key, Sequence[_Option]],
) -> tuple[F32, F32, F32]:
    """The best estimates of a shard; and the estimates, and the scores by interaction, of all that
    an option compares, and of some more: those that looked as if, while windows were to come."""
    most = max(k for _, k in options)
    best, kept = np.zeros(0, np.float32), [(np.zeros(0, np.float32),) * 2]
    for first in range(0, shard.passages, WINDOW):
        last = min(first + WINDOW, shard.passages)
        pids, estimates = shard.kernel.approximate(Q_LD, *probes, None, first, last)
        best = _best(best, estimates, most)
        # Of fewer than k, the least may be better than the k-th of more.
        ends = last == shard.passages or len(best) >= most
        floor = min(_floors(best, options, float(len(Q_LD) ** 0.5)).values()) if ends else -np.inf
        looked_at = estimates >= floor
        kept.append((estimates[looked_at], shard.kernel.interaction(Q_LD, pids[looked_at])))
    estimates, scores = (np.concatenate(part) for part in zip(*kept, strict=True))
    return best, estimates, scores


def _floors(
    best: F32, options: Mapping[Key, Sequence[_Option]], root: float
) -> dict[tuple[Key, int], np.float32]:
    """The estimate below which each option, by key and place, leaves a passage out."""
    return {
        (key, at): _kth_best(best, key[1]) - option.margin * root
        for key, of in options.items()
        for at, option in enumerate(of)
    }


# ---------------------------------------------------------------- choosing


@dataclass(frozen=True)
class _Costs:
    """What a query's work costs, in tokens scored: one more probe, and one more candidate that is
    compared, and scored."""

    probe: float
    compared: float
    scored: float

    @classmethod
    def of(
        cls, shards: Sequence[ShardReader], codec: Codec, queries: Sequence[PseudoQuery]
    ) -> _Costs:
        postings = sum(shard.entry.postings for shard in shards) / codec.centroid_count
        lists = LIST_COST * len(shards) + POSTING_COST * postings
        tokens = float(np.mean([len(query.Q_LD) for query in queries]))
        length = sum(shard.tokens for shard in shards) / sum(shard.passages for shard in shards)
        return cls(tokens * (PROBE_COST + lists), INTERACTION_COST * length, length)


def _price(option: _Option, counts_Q2S: AnyArray, costs: _Costs) -> tuple[Preset, float]:
    """What an option takes, and its cost."""
    compared, scored = (
        max(option.k, int(np.ceil(MOST_OVER_MEDIAN * np.median(counts_Q2S[:, stage]))))
        for stage in (0, 1)
    )
    means = np.minimum(counts_Q2S, [[[compared], [scored]]]).sum(2).mean(0)
    preset = Preset(
        recall=option.recall,
        k=option.k,
        nprobe=option.nprobe,
        candidates=compared,
        scored=scored,
        margin=round(option.margin, 4),
        interaction_margin=round(option.interaction_margin, 4),
        overlap=round(option.overlap, 4),
        mean_scored=round(float(means[1])),
    )
    cost = option.nprobe * costs.probe + means[0] * costs.compared + means[1] * costs.scored
    return preset, float(cost)


def _cheapest(priced: Sequence[tuple[Preset, float]]) -> Preset:
    """The cheapest option that reaches its recall; of about equal ones, that of fewest probes."""
    enough = [(preset, cost) for preset, cost in priced if preset.overlap >= TARGETS[preset.recall]]
    if not enough:
        return max((preset for preset, _ in priced), key=lambda preset: preset.overlap)
    least = min(cost for _, cost in enough)
    fewest = min(preset.nprobe for preset, cost in enough if cost <= MORE_PROBES_PAY * least)
    return min(((p, c) for p, c in enough if p.nprobe == fewest), key=lambda one: one[1])[0]
