"""Measuring a search: relevance by ir_measures, overlap with exact search, and latency.

Shapes: L query tokens, T passage tokens, D dimensions, M query tokens of all queries together.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

from cluster.beir import Judged
from colbert_core.text import Encoder
from colbert_core.types import F32, I32, I64, Passage

DEPTH = 100
BATCH_PASSAGES = 256

Run = list[list[tuple[str, float]]]
"""For each query, (passage id, score), best first."""


def measures(judged: Judged, run: Run) -> dict[str, float]:
    """nDCG@10, MRR@10 and recall@100, means over the queries."""
    names = {nDCG @ 10: "ndcg@10", RR @ 10: "mrr@10", R @ 100: "recall@100"}
    qrels = (
        ir_measures.Qrel(query, passage, relevance)
        for query in judged.ids
        for passage, relevance in judged.qrels[query].items()
    )
    scored = (
        ir_measures.ScoredDoc(query, passage, score)
        for query, hits in zip(judged.ids, run, strict=True)
        for passage, score in _strictly_falling(hits)
    )
    found = ir_measures.calc_aggregate(list(names), list(qrels), list(scored))
    return {name: round(float(found[measure]), 4) for measure, name in names.items()}


def _strictly_falling(hits: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Ranks as scores: a measure must not break ties otherwise than the search did."""
    return [(passage, float(len(hits) - rank)) for rank, (passage, _) in enumerate(hits)]


def overlap(run: Run, truth: Run, depth: int) -> float:
    """The mean share of the true best `depth` passages that a run found."""
    shares = []
    for found, best in zip(run, truth, strict=True):
        wanted = {passage for passage, _ in best[:depth]}
        shared = wanted & {passage for passage, _ in found[:depth]}
        shares.append(len(shared) / len(wanted) if wanted else 1.0)
    return round(float(np.mean(shares)), 4)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    return {f"p{p}": round(1000 * float(np.percentile(seconds, p)), 3) for p in (50, 95, 99)}


def uncompressed_run(
    encoder: Encoder,
    queries: Sequence[str],
    passages: Iterable[Passage],
    on_passages: Callable[[int], None] | None = None,
) -> Run:
    """Exact MaxSim over vectors encoded afresh, in memory that does not grow with the corpus.

    Args:
        encoder: of the index, projection included.
        queries: their texts.
        passages: the corpus, in the order of the index.
        on_passages: called with how many were scored.
    """
    return exact_run(
        encoder.encode_queries(list(queries)), _encoded(encoder, passages, on_passages)
    )


def exact_run(matrices: Sequence[F32], batches: Iterable[tuple[Sequence[str], F32, I32]]) -> Run:
    """Exact MaxSim of queries against passages that come in batches, in the order of the corpus.

    Args:
        matrices: for each query a float32 [L, D].
        batches: ids of passages, their vectors end to end [T, D], and how many each has.
    """
    Q_MD = np.concatenate(matrices)
    starts = np.cumsum([0, *(len(Q_LD) for Q_LD in matrices[:-1])], dtype=np.int64)
    best: list[list[tuple[float, int, str]]] = [[] for _ in matrices]
    done = 0
    for ids, vectors_TD, doclens_N in batches:
        scores = _maxsim(Q_MD, starts, vectors_TD, doclens_N)
        for query, row in enumerate(scores):
            for column in np.argsort(-row, kind="stable")[:DEPTH]:
                entry = (float(row[column]), -(done + int(column)), ids[column])
                if len(best[query]) < DEPTH:
                    heapq.heappush(best[query], entry)
                elif entry > best[query][0]:
                    heapq.heapreplace(best[query], entry)
                else:
                    break
        done += len(ids)
    return [[(one, score) for score, _, one in sorted(heap, reverse=True)] for heap in best]


def _encoded(
    encoder: Encoder, passages: Iterable[Passage], on_passages: Callable[[int], None] | None
) -> Iterator[tuple[list[str], F32, I32]]:
    corpus = iter(passages)
    while batch := list(islice(corpus, BATCH_PASSAGES)):
        encoded = encoder.encode_passages([passage.text for passage in batch])
        yield [passage.id for passage in batch], encoded.vectors_TD, encoded.doclens_N
        if on_passages:
            on_passages(len(batch))


def _maxsim(Q_MD: F32, starts: I64, vectors_TD: F32, doclens_N: I32) -> F32:
    """Scores float32 [queries, passages]; `starts` are the first rows of each query in Q_MD."""
    Q_DM = np.ascontiguousarray(Q_MD.T)
    # One product a passage: its maximum over tokens is taken while it is in the cache.
    best_NM = np.stack([(X @ Q_DM).max(axis=0) for X in _split(vectors_TD, doclens_N)])
    sums: F32 = np.add.reduceat(best_NM, starts, axis=1).T
    return sums


def _split(vectors_TD: F32, doclens_N: I32) -> list[F32]:
    return np.split(vectors_TD, np.cumsum(doclens_N)[:-1])
