"""Merging the best passages of shards. The one tie-break: higher score, then corpus order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.types import F32, I64, ShardTopK

Located = tuple[int, int, float]
"""(shard index, ordinal in the shard, score)"""


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The best passages of all shards, best first.

    Attributes:
        shards_K: int64 [K], indexes of shards.
        pids_K: int64 [K], ordinals within their shard.
        scores_K: float32 [K].
    """

    shards_K: I64
    pids_K: I64
    scores_K: F32

    def located(self) -> list[Located]:
        """The same, passage by passage."""
        columns = self.shards_K.tolist(), self.pids_K.tolist(), self.scores_K.tolist()
        return list(zip(*columns, strict=True))


def merge(parts: Sequence[ShardTopK | None], k: int) -> Merged:
    """The best k of all shards.

    Shards are in the order of the corpus; a shard that did not answer is None. Ties go to the
    smaller shard index, then to the smaller ordinal.
    """
    answered = [(index, part) for index, part in enumerate(parts) if part and len(part.pids_K)]
    if not answered:
        return Merged(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    shards = np.concatenate([np.full(len(part.pids_K), index) for index, part in answered])
    pids = np.concatenate([part.pids_K for _, part in answered])
    scores = np.concatenate([part.scores_K for _, part in answered])
    if len(answered) == 1:  # in order already
        return Merged(shards[:k], pids[:k], scores[:k])
    order = np.lexsort((pids, shards, -scores))[:k]
    return Merged(shards[order], pids[order], scores[order])
