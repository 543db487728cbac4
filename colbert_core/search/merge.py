"""Merging the best passages of shards. The one tie-break: higher score, then corpus order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from colbert_core.types import ShardTopK


def merge(parts: Sequence[ShardTopK | None], k: int) -> list[tuple[int, int, float]]:
    """The best k of all shards as (shard index, ordinal in the shard, score), best first.

    Shards are in the order of the corpus; a shard that did not answer is None. Ties go to the
    smaller shard index, then to the smaller ordinal.
    """
    answered = [(index, part) for index, part in enumerate(parts) if part and len(part.pids_K)]
    if not answered:
        return []
    if len(answered) == 1:
        index, part = answered[0]
        best = zip(part.pids_K[:k].tolist(), part.scores_K[:k].tolist(), strict=True)
        return [(index, pid, score) for pid, score in best]
    shards = np.concatenate([np.full(len(part.pids_K), index) for index, part in answered])
    pids = np.concatenate([part.pids_K for _, part in answered])
    scores = np.concatenate([part.scores_K for _, part in answered])
    order = np.lexsort((pids, shards, -scores))[:k]
    return [(int(shards[i]), int(pids[i]), float(scores[i])) for i in order]
