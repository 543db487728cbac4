"""Queries encoded together, where that gives each the bits that it has alone.

A batch costs a processor less than its queries one by one: less than half, measured. But which
kernels multiply its matrices depends on their shapes, and other kernels round otherwise, while the
same query must score the same alone, in a batch, and on another replica. So queries of the same
length only are put together, 8, 4 or 2; and of each such shape the first batch is encoded both
ways. Where a bit differs, queries of that shape are encoded one by one for good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from colbert_core.text.tokens import Tokens
from colbert_core.types import F32

SIZES = (8, 4, 2)

Shape = tuple[int, int, int]
"""(tokens of each query, of which are attended to, queries)"""


class Together:
    """What was found out about one network on this machine. Safe to share between threads: at
    worst two find out the same."""

    def __init__(self) -> None:
        self._same: dict[Shape, bool] = {}

    def encode(self, queries: Sequence[Tokens], encode: Callable[[list[Tokens]], F32]) -> list[F32]:
        """The vectors of each query, as `encode` gives them for it alone.

        Args:
            encode: float32 [R, D], the kept vectors of a batch, one query after the other.
        """
        by_length: dict[tuple[int, int], list[int]] = {}
        for at, tokens in enumerate(queries):
            by_length.setdefault((len(tokens.ids), tokens.attended), []).append(at)
        found: dict[int, F32] = {}
        for length, places in by_length.items():
            for chunk in _chunks(places):
                batch = [queries[at] for at in chunk]
                found |= zip(chunk, self._encode(length, batch, encode), strict=True)
        return [found[at] for at in range(len(queries))]

    def _encode(
        self, length: tuple[int, int], batch: list[Tokens], encode: Callable[[list[Tokens]], F32]
    ) -> list[F32]:
        shape = (*length, len(batch))
        if len(batch) > 1 and self._same.get(shape):
            return _split(encode(batch), batch)
        alone = [encode([tokens]) for tokens in batch]
        if len(batch) > 1 and shape not in self._same:
            both = zip(alone, _split(encode(batch), batch), strict=True)
            self._same[shape] = all(np.array_equal(one, other) for one, other in both)
        return alone


def _chunks(places: list[int]) -> list[list[int]]:
    """Pieces of 8, 4, 2 and 1, so that there are few shapes to find out about."""
    chunks, at = [], 0
    while at < len(places):
        size = next((size for size in SIZES if size <= len(places) - at), 1)
        chunks.append(places[at : at + size])
        at += size
    return chunks


def _split(rows_RD: F32, batch: Sequence[Tokens]) -> list[F32]:
    ends = np.cumsum([len(tokens.kept) for tokens in batch])[:-1]
    return [np.ascontiguousarray(part) for part in np.split(rows_RD, ends)]
