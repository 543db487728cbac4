"""Drift: how much worse an index's centroids fit what was added to it than what it was built of.

The measure is the mean length of residuals, what the centroid leaves of a token's unit vector. It
is taken of stored tokens, so that old and new ones are measured alike; docs/decisions/drift.md
says how near that is to the residuals before compression, and what a drift costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colbert_core.index import Manifest, ShardReader
from colbert_core.types import F32

REBUILD_ABOVE = 1.5
"""Drift past which a rebuild is advised: it has then cost about .015 of overlap@10 at 2 bits."""

RUNS, RUN_TOKENS = 64, 256
"""Tokens that are looked at: so many runs, evenly spread over the shards."""


def residual_norm(shards: Sequence[ShardReader]) -> float:
    """The mean length of the residuals of stored tokens, of a sample of fixed size."""
    lengths = []
    total = sum(shard.tokens for shard in shards)
    starts = np.unique(np.linspace(0, max(0, total - 1), RUNS).astype(np.int64))
    first = 0
    for shard in shards:
        here = starts[(starts >= first) & (starts < first + shard.tokens)] - first
        lengths += [_lengths(shard, int(start)) for start in here]
        first += shard.tokens
    return float(np.mean(np.concatenate(lengths))) if lengths else 0.0


def _lengths(shard: ShardReader, start: int) -> F32:
    """Of the passages from the one of token `start` on, and what of them comes first."""
    codec, pid = shard.codec, shard.passage_of(start)
    stop = next(shard.runs(pid, shard.passages, RUN_TOKENS))[1]
    tokens, doclens_N = shard.compressed(pid, stop)
    decoded_TD = codec.rotate(codec.decode(tokens, doclens_N))
    residuals_TD = decoded_TD - codec.centroids_CD[tokens.codes_T]
    lengths_T: F32 = np.linalg.norm(residuals_TD[:RUN_TOKENS], axis=1)
    return lengths_T


def with_drift(
    live: Manifest, shards: Sequence[ShardReader], added: Sequence[ShardReader]
) -> dict[str, Any]:
    """The extras of a generation that gets shards: the mean residuals of what the codec was made
    for, and of all that was added since."""
    extras = dict(live.extras)
    base = [shard for shard in shards if not shard.entry.delta]
    extras.setdefault("residual_norm", round(residual_norm(base), 4))
    before, now = int(extras.get("added_tokens", 0)), sum(shard.tokens for shard in added)
    total = before * float(extras.get("added_residual_norm", 0)) + now * residual_norm(added)
    extras["added_tokens"] = before + now
    extras["added_residual_norm"] = round(total / max(1, before + now), 4)
    return extras


def drift(extras: Mapping[str, Any]) -> float | None:
    """Added residuals over the base's, from a manifest's extras; None where nothing was added."""
    if not extras.get("added_tokens") or not extras.get("residual_norm"):
        return None
    return round(float(extras["added_residual_norm"]) / float(extras["residual_norm"]), 3)
