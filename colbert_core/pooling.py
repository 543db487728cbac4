"""Token pooling: fewer vectors a passage, each the mean of tokens that are alike.

Within a passage, Ward's clustering merges T tokens into exactly ⌈T / factor⌉ clusters, each kept as
its mean at unit length (Clavié et al. 2024, arXiv 2409.14683). The passage's first token, in most
models a marker that stands for all of it, is not merged. Pooled vectors stand in the order of their
clusters' first tokens; which tokens they stand for is not stored.

Shapes: N passages, T tokens before pooling, P pooled tokens, D dimensions.
"""

from __future__ import annotations

import numpy as np

from colbert_core.embeddings import with_norms
from colbert_core.errors import InvalidInput
from colbert_core.types import F32, I32, AnyArray

MAX_POOL_FACTOR = 16
"""Above, nearly single-vector search: a passage of 128 tokens keeps 8."""
RUN = 512
"""Tokens clustered together; longer passages are cut, for time grows with the square."""


def check_pool_factor(factor: int) -> None:
    """Raise InvalidInput unless the factor is in 1 … MAX_POOL_FACTOR."""
    if not 1 <= factor <= MAX_POOL_FACTOR:
        raise InvalidInput(
            f"pool_factor is {factor}; give 1 (which keeps every token) to {MAX_POOL_FACTOR}"
        )


def pooled_doclens(doclens_N: I32, factor: int) -> I32:
    """Tokens of passages, int32 [N], before pooling → after: ⌈T / factor⌉ each."""
    return (doclens_N + np.int32(factor - 1)) // np.int32(factor)


def pool_passages(vectors_TD: F32, doclens_N: I32, factor: int) -> F32:
    """Pool passages that lie one after the other.

    Args:
        vectors_TD: float32 [T, D], unit vectors.
        doclens_N: int32 [N], tokens of each passage.
        factor: how many times fewer tokens there shall be; 1 gives the vectors back.

    Returns:
        float32 [P, D], unit vectors; `pooled_doclens` says how many a passage.
    """
    if factor == 1:
        return vectors_TD
    run = RUN // factor * factor  # so that runs pool to ⌈T / factor⌉ in all
    parts: list[F32] = []
    start = 0
    for stop in np.cumsum(doclens_N, dtype=np.int64).tolist():
        for first in range(start, stop, run):
            run_TD = vectors_TD[first : min(first + run, stop)]
            parts.append(_pool(run_TD, factor, kept=1 if first == start else 0))
        start = stop
    return np.concatenate(parts)


def _pool(vectors_TD: F32, factor: int, kept: int) -> F32:
    """The means of ⌈T / factor⌉ clusters, at unit length.

    The first `kept` tokens are clusters of their own, where that leaves one for the others.
    """
    tokens = len(vectors_TD)
    clusters = -(-tokens // factor)
    if clusters == tokens:
        return vectors_TD
    if clusters <= kept:
        kept = 0
    others_T = kept + _cluster(vectors_TD[kept:], clusters - kept)
    cluster_T = np.concatenate([np.arange(kept), others_T])
    order_T = np.argsort(cluster_T, kind="stable")
    firsts_P = np.searchsorted(cluster_T[order_T], np.arange(clusters))
    sums_PD, norms_P = with_norms(np.add.reduceat(vectors_TD[order_T], firsts_P))
    # Opposite vectors sum to nothing that has a direction: the first stands for them.
    vague_P = norms_P < 1e-3
    sums_PD[vague_P], norms_P[vague_P] = vectors_TD[order_T[firsts_P[vague_P]]], 1
    return sums_PD / norms_P[:, None]


def _cluster(vectors_TD: F32, clusters: int) -> AnyArray:
    """The cluster of each token [T], numbered by their first tokens."""
    # SciPy: only where one pools.
    from scipy.cluster.hierarchy import linkage

    tokens = len(vectors_TD)
    cosines = (vectors_TD @ vectors_TD.T)[np.triu_indices(tokens, 1)]
    merges = linkage(np.sqrt(np.maximum(2 - 2 * cosines, 0)), "ward")
    # Merge i makes node T + i. So many merges leave so many clusters, ties or not.
    made = np.arange(tokens, 2 * tokens - clusters)
    parents = np.arange(2 * tokens - clusters)
    parents[merges[: len(made), :2].astype(np.int64)] = made[:, None]
    while not np.array_equal(grandparents := parents[parents], parents):
        parents = grandparents
    _, firsts, numbers_T = np.unique(parents[:tokens], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[numbers_T]
