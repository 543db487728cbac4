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

Shapes: L query tokens, D dimensions, N passages of a shard, Q queries, O options, S shards.
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
from colbert_core.search.pseudo_queries import PseudoQuery, Sample, draw_sample, pseudo_queries
from colbert_core.types import F32, AnyArray

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
PASSAGE_BYTES = 40  # of a thread, for each passage of a shard: scores, stamps, candidates
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
    """As many as there are processors, and memory for what each keeps of a shard's passages."""
    passages = max(shard.passages for shard in shards)
    return max(1, min(os.cpu_count() or 1, THREADS_BYTES // (PASSAGE_BYTES * passages)))


def _over(
    queries: Sequence[PseudoQuery],
    measure: Callable[[PseudoQuery], Mapping[Key, AnyArray]],
    threads: int,
) -> dict[Key, AnyArray]:
    """What is measured of every query, stacked."""
    with ThreadPoolExecutor(threads) as pool:
        measured = list(pool.map(measure, queries))
    return {key: np.stack([one[key] for one in measured]) for key in measured[0]}


# ---------------------------------------------------------------- what one query shows


def _gaps(
    sample: Sample, codec: Codec, query: PseudoQuery, ks: Sequence[int]
) -> dict[Key, AnyArray]:
    """How far behind their shard's k-th best each of the exact top k falls, over √L: float32
    [2, k], by estimate and by interaction. Infinite for a hit that no probe leads to.

    The passage that the query was made from does not count, and k shrinks with the sample: the best
    of many passages lie closer together.
    """
    sample, Q_LD = sample.without(query.shard, query.pid), query.Q_LD
    ranks = [max(1, round(k * sample.share)) for k in ks]
    compared = []
    for shard, allowed_N in zip(sample.shards, sample.allowed, strict=True):
        pids = np.flatnonzero(allowed_N)
        compared.append((pids, shard.kernel.interaction(Q_LD, pids)))
    hits = _exact_hits(sample, Q_LD, compared, ranks[-1])
    by_interaction = _behind(hits, compared, ranks)
    gaps: dict[Key, AnyArray] = {}
    for nprobe in NPROBES:
        probes = codec.centroid_table.probe(Q_LD, nprobe)
        estimated = [
            shard.kernel.approximate(Q_LD, *probes, allowed_N)
            for shard, allowed_N in zip(sample.shards, sample.allowed, strict=True)
        ]
        by_estimate = _behind(hits, estimated, ranks)
        for k, both in zip(ks, zip(by_estimate, by_interaction, strict=True), strict=True):
            gaps[nprobe, k] = np.stack(both) / np.float32(len(Q_LD) ** 0.5)
    return gaps


def _exact_hits(
    sample: Sample, Q_LD: F32, compared: Sequence[tuple[AnyArray, F32]], count: int
) -> AnyArray:
    """The best `count` by precise score, int64 [count, 2] of (shard, passage): looked for among
    those that centroid interaction puts within several times as many."""
    most = SIFTED_PER_HIT * count + SIFTED_BESIDE
    found: list[tuple[float, int, int]] = []
    for index, (pids, scores) in enumerate(compared):
        best = pids[np.argsort(-scores, kind="stable")[:most]]
        precise = sample.shards[index].kernel.score(Q_LD, best)
        found += zip((-precise).tolist(), [index] * len(best), best.tolist(), strict=True)
    hits: AnyArray = np.array([(index, pid) for _, index, pid in sorted(found)[:count]], np.int64)
    return hits


def _behind(
    hits: AnyArray, found: Sequence[tuple[AnyArray, F32]], ks: Sequence[int]
) -> list[AnyArray]:
    """For each k, how far the scores of the first k hits, as (shard, passage), lie below the k-th
    best of their shard; `found` has ascending passages and scores of every shard."""
    scores = np.full(len(hits), -np.inf, np.float32)
    kth = np.full((len(ks), len(hits)), np.inf, np.float32)
    for shard, (pids, of_shard) in enumerate(found):
        here = hits[:, 0] == shard
        scores[here] = _look_up(hits[here, 1], pids, of_shard)
        kth[:, here] = [[_kth_best(of_shard, k)] for k in ks]
    return [(best - scores)[:k] for k, best in zip(ks, kth, strict=True)]


def _look_up(wanted: AnyArray, pids: AnyArray, scores: F32) -> F32:
    """The scores of passages among ascending `pids`; of others, minus infinity."""
    if not len(pids):
        return np.full(len(wanted), -np.inf, np.float32)
    places = np.minimum(np.searchsorted(pids, wanted), len(pids) - 1)
    found: F32 = np.where(pids[places] == wanted, scores[places], np.float32(-np.inf))
    return found


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
            pids, estimates = shard.kernel.approximate(Q_LD, *probes)
            least = {
                (key, at): _kth_best(estimates, key[1]) - option.margin * root
                for key, of in mine.items()
                for at, option in enumerate(of)
            }
            looked_at = estimates >= min(least.values())
            estimates = estimates[looked_at]
            scores = shard.kernel.interaction(Q_LD, pids[looked_at])
            for (key, at), floor in least.items():
                compared = scores[estimates >= floor]
                slack = options[key][at].interaction_margin * root
                within = compared >= _kth_best(compared, key[1]) - slack
                counts[key][:, at, index] = len(compared), np.count_nonzero(within)
    return counts


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
