"""Presets of an index, measured on the index itself: what each recall target takes.

There are no queries when an index is built, so they are made from its passages. Their exact top k
come from exhaustive search, and the estimates by which postings choose candidates say how far
behind the k-th best each of them falls. Such a gap over √(query tokens) is an error of the
centroids (over √Σ‖q‖² of tokens that are not of unit length): unlike the number of
candidates, it hardly depends on the query, on k, on how many passages there are, or on how the
queries were made. So the margin that keeps a share of the pseudo-queries' hits keeps that share of
real ones. Of the candidates that it leaves, how many are scored precisely each query decides by
itself (reference/stopping.py); what is measured for that is how far precise scores usually are from
those by which candidates are compared. docs/decisions/recall-presets.md has the measurements.

    calibrate_gaps.py      how far behind the hits of a query fall
    calibrate_margins.py   the margins that follow, and what a query takes with them

A shard is looked at in windows of its passages, so that memory does not grow with them, but for a
score of each.

Shapes: Q queries, S shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from colbert_core import kernels
from colbert_core.codec import Codec
from colbert_core.hardware import processors
from colbert_core.index import Preset, ShardReader
from colbert_core.index.presets import PASSAGES_PER_HIT
from colbert_core.search.calibrate_gaps import NPROBES, gaps_of
from colbert_core.search.calibrate_margins import RECALLS, Option, counts_of, options_of
from colbert_core.search.pseudo_queries import TrialQuery, draw_sample, pseudo_queries
from colbert_core.types import AnyArray

Measured = TypeVar("Measured")

KS = (10, 100, 1000)

QUERIES = 256
COUNTED_EVERY = 4  # query, to see how many candidates a margin leaves
FEWEST_PASSAGES = 512  # below, searching is cheap and measuring is noise
SAMPLE_TOKENS = 1 << 22  # most that queries are compared with; of more, a sample of the passages
THREADS_BYTES = 1 << 30
CANDIDATE_BYTES = 40  # of a thread: numbers, three scores, and what an option leaves, in order

MOST_OVER_MEDIAN = 4  # the caps, beside what the margins leave of the usual query
# What things cost in tokens scored precisely, as measured.
PROBE_COST, LIST_COST, POSTING_COST, INTERACTION_COST = 10.0, 1.0, 0.15, 0.2
MORE_PROBES_PAY = 1.25  # pseudo-queries flatter many probes: fewer are taken at up to this cost


def calibrate(
    shards: Sequence[ShardReader],
    codec: Codec,
    seed: int = 0,
    real: Sequence[TrialQuery] | None = None,
    on_query: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Preset, ...]:
    """The presets of an index, by k and recall; none for an index that is small.

    The same shards and seed give the same presets, on any number of processors.

    Args:
        shards: all of the index, in the order of the corpus.
        codec: of these shards.
        seed: of the queries, and of the sample of a large index.
        real: queries to measure with, instead of such as are made from passages.
        on_query: called with (done, total) as queries are measured with, in this thread.
    """
    passages = sum(shard.entry.live_passages for shard in shards)
    if passages < FEWEST_PASSAGES or kernels.isa() == "reference":
        return ()  # the reference is for comparing with: too slow to search exhaustively
    rng = np.random.default_rng(seed)
    sample = draw_sample(shards, SAMPLE_TOKENS, rng)
    queries = real or pseudo_queries(sample, QUERIES, rng)
    ks = [k for k in KS if k == KS[0] or PASSAGES_PER_HIT * k <= passages]
    threads = _threads(shards)
    gaps = _over(queries, lambda query: gaps_of(sample, codec, query, ks), threads, on_query)
    per_query = [of.behind for of in gaps], [of.ranks for of in gaps]
    options = {
        key: options_of(key, *(np.stack([what[key] for what in of]) for of in per_query))
        for key in gaps[0].behind
    }
    spreads = {k: float(np.mean([of.variance[k] for of in gaps])) ** 0.5 for k in ks}
    counts = _over(
        queries[::COUNTED_EVERY],
        lambda query: counts_of(shards, codec, query, options, spreads),
        threads,
    )
    costs = _Costs.of(shards, codec, queries)
    presets = []
    for k in ks:
        for at in range(len(RECALLS)):
            priced = []
            for nprobe in NPROBES:
                option = options[nprobe, k][at]
                counts_Q2S = np.stack([of[nprobe, k][:, at] for of in counts])
                priced.append((*_price(option, spreads[k], counts_Q2S, costs), option.enough))
            presets.append(_cheapest(priced))
    return tuple(presets)


def _threads(shards: Sequence[ShardReader]) -> int:
    """As many as there are processors, and memory for the candidates of each, if all passages of a
    shard were some."""
    passages = max(shard.passages for shard in shards)
    return max(1, min(processors(), THREADS_BYTES // (CANDIDATE_BYTES * passages)))


def _over(
    queries: Sequence[TrialQuery],
    measure: Callable[[TrialQuery], Measured],
    threads: int,
    on_query: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[Measured]:
    """What is measured of every query."""
    measured = []
    with ThreadPoolExecutor(threads) as pool:
        for one in pool.map(measure, queries):
            measured.append(one)
            on_query(len(measured), len(queries))
    return measured


@dataclass(frozen=True)
class _Costs:
    """What a query's work costs, in tokens scored: one more probe, and one more candidate that is
    compared, and scored."""

    probe: float
    compared: float
    scored: float

    @classmethod
    def of(
        cls, shards: Sequence[ShardReader], codec: Codec, queries: Sequence[TrialQuery]
    ) -> _Costs:
        postings = sum(shard.entry.postings for shard in shards) / codec.centroid_count
        lists = LIST_COST * len(shards) + POSTING_COST * postings
        tokens = float(np.mean([len(query.Q_LD) for query in queries]))
        length = sum(shard.tokens for shard in shards) / sum(shard.passages for shard in shards)
        return cls(tokens * (PROBE_COST + lists), INTERACTION_COST * length, length)


def _price(
    option: Option, spread: float, counts_Q2S: AnyArray, costs: _Costs
) -> tuple[Preset, float]:
    """What an option takes, and its cost."""
    usual = [MOST_OVER_MEDIAN * float(np.median(counts_Q2S[:, stage])) for stage in (0, 1)]
    compared = max(option.k, int(np.ceil(min(usual[0], option.most))))
    scored = max(option.k, min(compared, int(np.ceil(usual[1]))))
    means = np.minimum(counts_Q2S, [[[compared], [scored]]]).sum(2).mean(0)
    preset = Preset(
        recall=option.recall,
        k=option.k,
        nprobe=option.nprobe,
        candidates=compared,
        scored=scored,
        margin=round(option.margin, 4),
        missed=round(option.missed, 4),
        spread=round(spread, 4),
        kept=round(option.kept, 4),
        mean_scored=round(float(means[1])),
    )
    cost = option.nprobe * costs.probe + means[0] * costs.compared + means[1] * costs.scored
    return preset, float(cost)


def _cheapest(priced: Sequence[tuple[Preset, float, bool]]) -> Preset:
    """The cheapest option that is enough for its recall; of about equal ones, that of fewest
    probes."""
    enough = [(preset, cost) for preset, cost, is_enough in priced if is_enough]
    if not enough:
        return max((preset for preset, _, _ in priced), key=lambda preset: preset.kept)
    least = min(cost for _, cost in enough)
    fewest = min(preset.nprobe for preset, cost in enough if cost <= MORE_PROBES_PAY * least)
    return min(((p, c) for p, c in enough if p.nprobe == fewest), key=lambda one: one[1])[0]
