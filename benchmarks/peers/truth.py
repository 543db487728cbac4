"""What is right: exact MaxSim over the uncompressed vectors, overlap with it, and nDCG."""

from __future__ import annotations

from pathlib import Path

import ir_measures
import numpy as np
from adapter import Vectors
from collection import Collection
from ir_measures import nDCG

TOKENS_AT_ONCE = 32_768


def exact_top(vectors: Vectors, k: int, cache: Path) -> np.ndarray:
    """int64 [queries, k]: the best passages by exact fp32 MaxSim, ties by ordinal; cached."""
    k = min(k, len(vectors))
    if cache.exists() and cache.stat().st_mtime > _changed(cache.parent):
        known = np.load(cache)
        if len(known) == len(vectors.queries) and known.shape[1] >= k:
            return known[:, :k]
    scores = _exact_scores(vectors)
    top = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.save(cache, top)
    return top


def overlap(found: list[list[int]], exact: np.ndarray, k: int) -> float:
    """Mean share of the exact top k among the first k found."""
    return overlap_between(found, exact.tolist(), k)


def overlap_between(found: list[list[int]], best: list[list[int]], k: int) -> float:
    """Mean share of the first k of `best` among the first k of `found`."""
    shares = [len(set(a[:k]) & set(b[:k])) / len(b[:k]) for a, b in zip(found, best, strict=True)]
    return float(np.mean(shares))


def ndcg_at_10(found: list[list[int]], collection: Collection) -> float:
    """nDCG@10 against the collection's judgements, by ir-measures."""
    scored = {
        query_id: {collection.passages[pid][0]: -float(rank) for rank, pid in enumerate(top)}
        for (query_id, _), top in zip(collection.queries, found, strict=True)
    }
    return float(ir_measures.calc_aggregate([nDCG @ 10], collection.qrels, scored)[nDCG @ 10])


def _exact_scores(vectors: Vectors) -> np.ndarray:
    """float32 [queries, passages]."""
    flat_DQ = np.concatenate(vectors.queries).T.copy()
    query_starts = np.concatenate([[0], np.cumsum([len(q) for q in vectors.queries])])[:-1]
    scores = np.empty((len(vectors.queries), len(vectors)), np.float32)
    first = 0
    while first < len(vectors):
        limit = vectors.offsets[first] + TOKENS_AT_ONCE
        last = max(first + 1, int(np.searchsorted(vectors.offsets, limit, side="right")) - 1)
        begin, end = vectors.offsets[first], vectors.offsets[last]
        tokens_TD = np.asarray(vectors.tokens[begin:end], dtype=np.float32)
        starts = vectors.offsets[first:last] - begin
        best = np.maximum.reduceat(tokens_TD @ flat_DQ, starts, axis=0)
        scores[:, first:last] = np.add.reduceat(best, query_starts, axis=1).T
        first = last
    return scores


def _changed(folder: Path) -> float:
    return max((folder / name).stat().st_mtime for name in ("tokens.npy", "queries.npy"))
