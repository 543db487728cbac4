"""Postings: for each centroid, the passages that have a token of its code, in ascending order.

Shapes: N passages, T tokens, C centroids, E postings.

Built from the codes in passes over runs of passages, so that memory is bounded whatever the size
of the shard: one pass counts, the next fills. Passages ascend from run to run, so each list is
sorted without sorting it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from colbert_core.types import I64, AnyArray

RUN_TOKENS = 4_000_000


def build_postings(
    codes_T: AnyArray, offsets_N1: AnyArray, centroids: int, postings_dtype: np.dtype[np.generic]
) -> tuple[AnyArray, AnyArray]:
    """Codes [T] and token offsets [N+1] → (postings offsets uint64 [C+1], postings [E])."""
    counts_C = np.zeros(centroids, np.int64)
    for code_E, _ in _runs(codes_T, offsets_N1):
        counts_C += np.bincount(code_E, minlength=centroids)
    offsets_C1 = np.zeros(centroids + 1, np.uint64)
    np.cumsum(counts_C, out=offsets_C1[1:], dtype=np.uint64)
    postings_E = np.empty(int(offsets_C1[-1]), postings_dtype)
    cursor_C = offsets_C1[:-1].astype(np.int64)
    for code_E, pid_E in _runs(codes_T, offsets_N1):
        first_E = np.flatnonzero(np.diff(code_E, prepend=-1))
        lengths = np.diff(first_E, append=len(code_E))
        rank_E = np.arange(len(code_E)) - np.repeat(first_E, lengths)
        postings_E[cursor_C[code_E] + rank_E] = pid_E
        cursor_C[code_E[first_E]] += lengths
    return offsets_C1, postings_E


def _runs(codes_T: AnyArray, offsets_N1: AnyArray) -> Iterator[tuple[I64, I64]]:
    """Runs of whole passages as unique (code, passage) pairs, sorted by code, then passage."""
    passages = len(offsets_N1) - 1
    start = 0
    while start < passages:
        limit = int(offsets_N1[start]) + RUN_TOKENS
        stop = int(np.searchsorted(offsets_N1, np.uint64(limit), side="right")) - 1
        stop = min(max(stop, start + 1), passages)
        first, last = int(offsets_N1[start]), int(offsets_N1[stop])
        ends_N1: I64 = offsets_N1[start : stop + 1].astype(np.int64)
        lengths = ends_N1[1:] - ends_N1[:-1]
        pid_T = np.repeat(np.arange(stop - start), lengths)
        pairs = np.unique(codes_T[first:last].astype(np.int64) * (stop - start) + pid_T)
        code_E, pid_E = np.divmod(pairs, stop - start)
        yield code_E, pid_E + start
        start = stop
