"""Passages on their way from a source to shards, cut where shards end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from colbert_core.codec import Compressed
from colbert_core.types import I32


@dataclass(frozen=True)
class Batch:
    """Passages as `ShardWriter.add` takes them."""

    tokens: Compressed
    doclens_n: I32
    ids: list[str]
    texts: list[str] | None
    metadata: list[Mapping[str, Any]] | None

    def __len__(self) -> int:
        return len(self.doclens_n)

    def cut(self, start: int, stop: int) -> Batch:
        ends = np.concatenate([[0], np.cumsum(self.doclens_n, dtype=np.int64)])
        rows = slice(int(ends[start]), int(ends[stop]))
        return Batch(
            self.tokens.part(slice(start, stop), rows),
            self.doclens_n[start:stop],
            self.ids[start:stop],
            self.texts[start:stop] if self.texts else None,
            self.metadata[start:stop] if self.metadata else None,
        )


class ShardCutter:
    """Cuts batches where shards end."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._left: Batch | None = None

    def take(self, passages: int) -> Iterator[tuple[Any, ...]]:
        """The arguments of `ShardWriter.add` for so many passages."""
        while passages:
            batch = self._left or next(self._batches)
            here = min(passages, len(batch))
            self._left = batch.cut(here, len(batch)) if here < len(batch) else None
            one = batch.cut(0, here)
            if len(one):
                yield one.tokens, one.doclens_n, one.ids, one.texts, one.metadata
            passages -= here
