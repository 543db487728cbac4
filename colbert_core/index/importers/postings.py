"""Comparing another engine's postings with those that follow from its codes.

Their lists are read beside the passages, in one pass: of every batch, the passages of a centroid
must be the next ones of its list. Memory is 16 bytes a centroid.
"""

from __future__ import annotations

import numpy as np

from colbert_core.types import I64, AnyArray


class PostingsCheck:
    """Collects which lists differ.

    Args:
        pids_E: passages, list after list; zeros may follow the last.
        lengths_C: how many each centroid has; may be fewer lists than there are centroids.
        centroids: how many lists there should be.
    """

    def __init__(self, pids_E: AnyArray, lengths_C: AnyArray, centroids: int) -> None:
        self.problem = _problem(pids_E, lengths_C, centroids)
        if self.problem:
            return
        self._pids_E = pids_E
        self._ends_C = np.zeros(centroids, np.int64)
        self._ends_C[: len(lengths_C)] = np.cumsum(lengths_C, dtype=np.int64)
        self._next_C = self._ends_C.copy()
        self._next_C[: len(lengths_C)] -= lengths_C
        self._differs_C = np.zeros(centroids, bool)

    def add(self, codes_T: I64, pids_T: I64) -> None:
        """The codes of the next passages, and the passage of each token."""
        if self.problem:
            return
        pairs_E = np.unique(codes_T << 32 | pids_T)
        codes_E, pids_E = pairs_E >> 32, pairs_E & 0xFFFFFFFF
        first_E = np.flatnonzero(np.diff(codes_E, prepend=-1))
        counts = np.diff(first_E, append=len(codes_E))
        rank_E = np.arange(len(codes_E)) - np.repeat(first_E, counts)
        at_E = self._next_C[codes_E] + rank_E
        inside_E = at_E < self._ends_C[codes_E]
        theirs_E = np.full(len(at_E), -1, np.int64)
        theirs_E[inside_E] = self._pids_E[at_E[inside_E]]
        self._differs_C[codes_E[theirs_E != pids_E]] = True
        self._next_C[codes_E[first_E]] += counts

    def finish(self) -> int:
        """How many lists differ from what the codes say."""
        if self.problem:
            return 0
        self._differs_C |= self._next_C != self._ends_C
        return int(self._differs_C.sum())


def _problem(pids_E: AnyArray, lengths_C: AnyArray, centroids: int) -> str:
    """Why the lists cannot be compared, or nothing."""
    if any(a.ndim != 1 or a.dtype.kind not in "iu" for a in (pids_E, lengths_C)):
        return "they are not integers"
    if len(lengths_C) > centroids:
        return f"there are {len(lengths_C)} lists for {centroids} centroids"
    if len(lengths_C) and int(lengths_C.min()) < 0:
        return "a list has a negative length"
    if len(lengths_C) and int(lengths_C.max()) > len(pids_E):
        return f"a list has {int(lengths_C.max()):,} passages of {len(pids_E):,} in all"
    total = int(lengths_C.sum(dtype=np.int64))
    if total > len(pids_E):
        return f"their lengths add up to {total:,} and there are {len(pids_E):,} passages in them"
    return ""
