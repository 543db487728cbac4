"""Presets of an index, measured on the index itself: what each recall target takes.

There are no queries when an index is built, so they are made from its passages. Their exact top k
come from exhaustive search, and the approximate scores, by which a search chooses its candidates,
say how far behind the k-th best each of them falls. That distance over √(query tokens) is an error
of the centroids: unlike the number of candidates, it hardly depends on the query, on k, on how many
passages there are, or on how the queries were made. So the margin that keeps a share `recall` of
the pseudo-queries' hits keeps that share of real ones. docs/decisions/recall-presets.md has the
measurements.

Shapes: L query tokens, D dimensions, N passages of a shard, Q queries, R recall targets, S shards.
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
from colbert_core.search.merge import merge
from colbert_core.search.pseudo_queries import Sample, draw_sample, pseudo_queries
from colbert_core.types import F32, AnyArray, ShardTopK

RECALLS = (0.80, 0.90, 0.95, 0.98, 0.99)
KS = (10, 100, 1000)
NPROBES = (8, 16, 32, 64)  # with fewer, pseudo-queries say little of real ones

QUERIES = 256
COUNTED_EVERY = 4  # query, to see how many candidates a margin leaves
FEWEST_PASSAGES = 512  # below, searching is cheap and measuring is noise
SAMPLE_TOKENS = 1 << 20  # most that are searched exhaustively; of more, a sample of the passages
PASSAGES_PER_HIT = 8  # of the sample, for its top k to be a part of it

WIDEST_MARGIN = 10.0  # where probes do not lead to enough hits: leaves nothing out
MOST_OVER_MEDIAN = 4  # the cap on candidates, beside what the margin leaves of the usual query
PROBE_COST, LIST_COST, POSTING_COST = 10.0, 1.0, 0.15  # beside scoring one token, as measured
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
    if sum(shard.passages for shard in shards) < FEWEST_PASSAGES or kernels.isa() == "reference":
        return ()  # the reference is for comparing with: too slow to search exhaustively
    rng = np.random.default_rng(seed)
    sample = draw_sample(shards, SAMPLE_TOKENS, rng)
    queries = pseudo_queries(sample, QUERIES, rng)
    ks = [k for k in KS if k == KS[0] or PASSAGES_PER_HIT * k <= sample.passages]
    gaps = _over(queries, lambda Q_LD: _gaps(sample, codec, Q_LD, ks))
    margins = {  # a sample's few passages make that of a large k too small, never too large
        (nprobe, k): np.maximum(_margins(gaps[nprobe, KS[0]]), _margins(gaps[nprobe, k]))
        for nprobe, k in gaps
    }
    counts = _over(queries[::COUNTED_EVERY], lambda Q_LD: _counts(shards, codec, Q_LD, margins))
    costs = _Costs.of(shards, codec, queries)

    def option(nprobe: int, k: int, at: int) -> tuple[Preset, float]:
        key = (nprobe, k)
        return _option(key, at, gaps[key], margins[key], counts[key], costs)

    return tuple(
        _cheapest([option(nprobe, k, at) for nprobe in NPROBES])
        for k in ks
        for at in range(len(RECALLS))
    )


def _over(
    queries: Sequence[F32], measure: Callable[[F32], Mapping[Key, AnyArray]]
) -> dict[Key, AnyArray]:
    """What is measured of every query, stacked."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = list(pool.map(measure, queries))
    return {key: np.stack([one[key] for one in measured]) for key in measured[0]}


# ---------------------------------------------------------------- what one query shows


def _gaps(sample: Sample, codec: Codec, Q_LD: F32, ks: Sequence[int]) -> dict[Key, AnyArray]:
    """How far behind their shard's k-th best each of the exact top k falls, over √L: float32 [k].

    Infinite for a hit that no probe leads to.
    """
    exact = [
        ShardTopK(*shard.kernel.exhaustive(Q_LD, ks[-1], allowed_N))
        for shard, allowed_N in zip(sample.shards, sample.allowed, strict=True)
    ]
    hits = np.array([(shard, pid) for shard, pid, _ in merge(exact, ks[-1])])
    gaps: dict[Key, AnyArray] = {}
    for nprobe in NPROBES:
        probes = codec.centroid_table.probe(Q_LD, nprobe)
        scores = np.full(len(hits), -np.inf, np.float32)
        kth = np.full((len(ks), len(hits)), np.inf, np.float32)
        for index, shard in enumerate(sample.shards):
            here = hits[:, 0] == index
            pids, touched = shard.kernel.approximate(Q_LD, *probes, sample.allowed[index])
            scores[here] = _look_up(hits[here, 1], pids, touched)
            kth[:, here] = [[_kth_best(touched, k)] for k in ks]
        for k, best in zip(ks, kth, strict=True):
            gaps[nprobe, k] = (best - scores)[:k] / np.float32(len(Q_LD) ** 0.5)
    return gaps


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


def _margins(gaps_Qk: F32) -> F32:
    """For each recall target, the margin that keeps that share of the hits, float32 [R]."""
    pooled = np.sort(gaps_Qk, axis=None)
    needed_R = np.ceil(np.array(RECALLS) * len(pooled)).astype(int) - 1
    margins_R: F32 = np.clip(pooled[needed_R], 0, WIDEST_MARGIN).astype(np.float32)
    return margins_R


def _counts(
    shards: Sequence[ShardReader],
    codec: Codec,
    Q_LD: F32,
    margins: Mapping[Key, F32],
) -> dict[Key, AnyArray]:
    """The candidates that each recall's margin leaves in each shard, int64 [R, S]."""
    counts: dict[Key, AnyArray] = {}
    for nprobe in NPROBES:
        probes = codec.centroid_table.probe(Q_LD, nprobe)
        touched = [np.sort(shard.kernel.approximate(Q_LD, *probes)[1]) for shard in shards]
        for k in (k for other, k in margins if other == nprobe):
            slack_R = margins[nprobe, k] * np.float32(len(Q_LD) ** 0.5)
            kept_SR = [
                len(scores) - np.searchsorted(scores, _kth_best(scores, k) - slack_R)
                for scores in touched
            ]
            counts[nprobe, k] = np.transpose(kept_SR)
    return counts


# ---------------------------------------------------------------- choosing


@dataclass(frozen=True)
class _Costs:
    """What a query's work costs, in tokens scored: one more probe, and one more candidate."""

    probe: float
    candidate: float

    @classmethod
    def of(cls, shards: Sequence[ShardReader], codec: Codec, queries: Sequence[F32]) -> _Costs:
        postings = sum(shard.entry.postings for shard in shards) / codec.centroid_count
        lists = LIST_COST * len(shards) + POSTING_COST * postings
        tokens = float(np.mean([len(Q_LD) for Q_LD in queries]))
        passages = sum(shard.passages for shard in shards)
        return cls(
            probe=tokens * (PROBE_COST + lists),
            candidate=sum(shard.tokens for shard in shards) / passages,
        )


def _option(
    key: Key, at: int, gaps_Qk: F32, margins_R: F32, counts_QRS: AnyArray, costs: _Costs
) -> tuple[Preset, float]:
    """What RECALLS[at] takes with so many probes, and its cost."""
    nprobe, k = key
    kept_QS = counts_QRS[:, at]
    cap = int(np.ceil(MOST_OVER_MEDIAN * np.median(kept_QS)))
    scored = float(np.minimum(kept_QS, cap).sum(1).mean())
    preset = Preset(
        recall=RECALLS[at],
        k=k,
        nprobe=nprobe,
        candidates=max(k, cap),
        margin=round(float(margins_R[at]), 4),
        overlap=round(float(np.mean(gaps_Qk <= margins_R[at])), 3),
        scored=round(scored),
    )
    return preset, nprobe * costs.probe + scored * costs.candidate


def _cheapest(options: Sequence[tuple[Preset, float]]) -> Preset:
    """The cheapest option that reaches its recall; of about equal ones, that of fewest probes."""
    enough = [(preset, cost) for preset, cost in options if preset.overlap >= preset.recall]
    if not enough:
        return max((preset for preset, _ in options), key=lambda preset: preset.overlap)
    least = min(cost for _, cost in enough)
    return next(preset for preset, cost in enough if cost <= MORE_PROBES_PAY * least)
