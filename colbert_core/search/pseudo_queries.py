"""Queries made from an index's own passages, for where there are no real ones yet.

A passage's first and last token, which are what models put around a text, and some of those
between, each moved by noise until it matches its passage about as well as a word of a real query
does. Large indexes are represented by a sample of their passages.

Shapes: L query tokens, T tokens of a passage, D dimensions, N passages of a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from colbert_core.index import ShardReader
from colbert_core.types import F32, U8

LENGTHS = (4, 32)  # tokens of a query: evenly spread by their logarithm
NOISE = 0.5  # its length beside that of a token, 1: leaves a cosine of .89


@dataclass(frozen=True)
class Sample:
    """Passages of an index: in each shard those whose `allowed` uint8 [N] is 1, all where None."""

    shards: Sequence[ShardReader]
    allowed: Sequence[U8 | None]

    @property
    def passages(self) -> int:
        return sum(
            shard.passages if allowed_N is None else int(allowed_N.sum())
            for shard, allowed_N in zip(self.shards, self.allowed, strict=True)
        )


def draw_sample(shards: Sequence[ShardReader], tokens: int, rng: np.random.Generator) -> Sample:
    """Passages of about `tokens` tokens in all, or every passage of an index that has fewer."""
    share = tokens / sum(shard.tokens for shard in shards)
    if share >= 1:
        return Sample(shards, [None] * len(shards))
    drawn = [(rng.random(shard.passages) < share).astype(np.uint8) for shard in shards]
    return Sample(shards, drawn)


def pseudo_queries(sample: Sample, count: int, rng: np.random.Generator) -> list[F32]:
    """Rotated queries, float32 [L, D], the short ones first, each from a passage of the sample."""
    pids = [
        np.arange(shard.passages) if allowed_N is None else np.flatnonzero(allowed_N)
        for shard, allowed_N in zip(sample.shards, sample.allowed, strict=True)
    ]
    ends = np.cumsum([len(of_shard) for of_shard in pids])
    queries = []
    for length in np.rint(np.geomspace(*LENGTHS, count)).astype(int).tolist():
        number = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, number, "right"))
        pid = int(pids[index][number - ends[index]])
        queries.append(_pseudo_query(sample.shards[index], pid, length, rng))
    return queries


def _pseudo_query(shard: ShardReader, pid: int, length: int, rng: np.random.Generator) -> F32:
    first, last = shard.offsets.read(pid, pid + 2).tolist()
    passage_TD = shard.kernel.decode(first, last - first)
    between = 1 + rng.permutation(max(0, len(passage_TD) - 2))[: length - 2]
    vectors_LD = _unit(passage_TD[np.unique([0, *between, len(passage_TD) - 1])])
    noise_LD = rng.standard_normal(vectors_LD.shape, np.float32) / vectors_LD.shape[1] ** 0.5
    return _unit(vectors_LD + np.float32(NOISE) * noise_LD)


def _unit(vectors_LD: F32) -> F32:
    norms_L1 = np.linalg.norm(vectors_LD, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors_LD / np.maximum(norms_L1, 1e-12), np.float32)
