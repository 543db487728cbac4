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
NOISE = 0.3  # its length beside that of a token, 1: leaves a cosine of .96


@dataclass(frozen=True)
class Sample:
    """Passages of an index: in each shard those whose `allowed` uint8 [N] is 1."""

    shards: Sequence[ShardReader]
    allowed: Sequence[U8]

    @property
    def share(self) -> float:
        """Of all passages of the index."""
        drawn = sum(int(allowed_N.sum()) for allowed_N in self.allowed)
        return drawn / sum(shard.passages for shard in self.shards)

    def without(self, index: int, pid: int) -> Sample:
        """All but one passage of one shard."""
        allowed = list(self.allowed)
        allowed[index] = allowed[index].copy()
        allowed[index][pid] = 0
        return Sample(self.shards, allowed)


@dataclass(frozen=True)
class PseudoQuery:
    """A rotated query, float32 [L, D], and the passage that it was made from."""

    Q_LD: F32
    shard: int
    pid: int


def draw_sample(shards: Sequence[ShardReader], tokens: int, rng: np.random.Generator) -> Sample:
    """Passages of about `tokens` tokens in all, or every passage of an index that has fewer."""
    share = tokens / sum(shard.tokens for shard in shards)
    drawn = [(rng.random(shard.passages) < share).astype(np.uint8) for shard in shards]
    return Sample(shards, drawn)


def pseudo_queries(sample: Sample, count: int, rng: np.random.Generator) -> list[PseudoQuery]:
    """Queries, the short ones first, each from a passage of the sample."""
    pids = [np.flatnonzero(allowed_N) for allowed_N in sample.allowed]
    ends = np.cumsum([len(of_shard) for of_shard in pids])
    queries = []
    for length in np.rint(np.geomspace(*LENGTHS, count)).astype(int).tolist():
        number = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, number, "right"))
        pid = int(pids[index][number - ends[index]])
        Q_LD = _pseudo_query(sample.shards[index], pid, length, rng)
        queries.append(PseudoQuery(Q_LD, index, pid))
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
