"""What a search gives: a sequence of hits that are read from disk when they are looked at.

Of a thousand hits, most programs want ids and scores: these are read together, and texts and
metadata only of the hits that are indexed or iterated over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from colbert_core.index import ShardReader, StoredRow
from colbert_core.search.merge import Merged
from colbert_core.types import F32, Hit, TokenMatch

Explain = Callable[[int, int, StoredRow], tuple[TokenMatch, ...]]
"""(shard index, ordinal, what is stored of it) → what each query token matched"""


class Hits(Sequence[Hit]):
    """Hits, best first; ties in the order of the corpus. Equal to any sequence of the same hits."""

    def __init__(
        self, shards: Sequence[ShardReader], merged: Merged, explain: Explain | None = None
    ) -> None:
        self._shards = shards
        self._merged = merged
        self._explain = explain

    @property
    def scores(self) -> F32:
        """The scores, float32 [K]."""
        return self._merged.scores_K

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all hits, read together: several times as fast as one by one."""
        shards_K, pids_K = self._merged.shards_K, self._merged.pids_K
        if len(self._shards) == 1:
            return self._shards[0].ids_of(pids_K)
        ids = np.empty(len(self), object)
        for index in np.unique(shards_K).tolist():
            here = np.flatnonzero(shards_K == index)
            ids[here] = self._shards[index].ids_of(pids_K[here])
        strings: list[str] = ids.tolist()
        return strings

    def __len__(self) -> int:
        return len(self._merged.pids_K)

    @overload
    def __getitem__(self, place: int) -> Hit: ...

    @overload
    def __getitem__(self, place: slice) -> list[Hit]: ...

    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        index = int(self._merged.shards_K[place])
        pid = int(self._merged.pids_K[place])
        row = self._shards[index].stored(pid)
        matches = self._explain(index, pid, row) if self._explain else ()
        score = float(self._merged.scores_K[place])
        return Hit(row.id, score, row.text, row.metadata, matches, row.window)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Hits({list(self)!r})"
