"""Cutting a row of items into runs of a bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from colbert_core.types import AnyArray


def runs(sizes: AnyArray, limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive items, [start, stop), whose sizes sum to at most `limit`; at least one each."""
    ends = np.cumsum(sizes, dtype=np.int64)
    start, done = 0, 0
    while start < len(sizes):
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield start, stop
        start, done = stop, int(ends[stop - 1])
