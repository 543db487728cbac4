"""Queries made from an index's own passages, for where there are no real ones yet.

A passage's first and last token, which are what models put around a text, and some of those
between, each moved by noise until it matches its passage about as well as a word of a real query
does. Large indexes are represented by a sample of their passages.

Shapes: L query tokens, T tokens of a passage, D dimensions, N passages of a shard, W of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from colbert_core.index import ShardReader
from colbert_core.types import F32, U8

WINDOW = 1 << 15  # passages of a shard that are looked at together: what bounds memory
LENGTHS = (4, 32)  # tokens of a query: evenly spread by their logarithm
NOISE = 0.3  # its length beside that of a token, 1: leaves a cosine of .96


@dataclass(frozen=True)
class Sample:
    """Passages of an index: in each shard those whose `allowed` uint8 [N] is 1."""

    shards: Sequence[ShardReader]
    allowed: Sequence[U8]

    @cached_property
    def drawn(self) -> int:
        """How many there are."""
        return sum(int(allowed_N.sum()) for allowed_N in self.allowed)

    def share_for(self, query: TrialQuery) -> float:
        """Of all passages of the index, those that a query may find."""
        found = self.drawn - (query.made_from is not None)
        return found / sum(shard.entry.live_passages for shard in self.shards)

    def windows(self, index: int, query: TrialQuery) -> Iterator[tuple[int, U8]]:
        """The first passage of each window of a shard, and what of the window a query may find: all
        of the sample but the passage that it was made from."""
        shard, pid = query.made_from or (-1, -1)
        for first in range(0, self.shards[index].passages, WINDOW):
            allowed_W = self.allowed[index][first : first + WINDOW]
            if index == shard and first <= pid < first + len(allowed_W):
                allowed_W = allowed_W.copy()
                allowed_W[pid - first] = 0
            yield first, allowed_W


@dataclass(frozen=True)
class TrialQuery:
    """A query to measure with.

    Attributes:
        Q_LD: float32 [L, D], rotated.
        made_from: (shard, passage); None of a real query.
    """

    Q_LD: F32
    made_from: tuple[int, int] | None = None

    @cached_property
    def length(self) -> float:
        """√Σ‖q‖² over its tokens, √L of unit vectors: what margins are counted in."""
        return float(np.linalg.norm(self.Q_LD.astype(np.float64)))


def draw_sample(shards: Sequence[ShardReader], tokens: int, rng: np.random.Generator) -> Sample:
    """Passages of about `tokens` tokens in all, or every one of an index that has fewer."""
    share = tokens / sum(shard.tokens for shard in shards)
    return Sample(shards, [_drawn(shard, share, rng) for shard in shards])


def _drawn(shard: ShardReader, share: float, rng: np.random.Generator) -> U8:
    """Uint8 [N], 1 with the probability `share`, and 0 of what was deleted."""
    allowed_N = np.empty(shard.passages, np.uint8)
    for first in range(0, shard.passages, WINDOW):
        window = allowed_N[first : first + WINDOW]
        window[:] = rng.random(len(window)) < share
        if shard.live_N is not None:
            window[shard.live_N[first : first + WINDOW] == 0] = 0
    return allowed_N


def pseudo_queries(sample: Sample, count: int, rng: np.random.Generator) -> list[TrialQuery]:
    """Queries, the short ones first, each from a passage of the sample."""
    pids = [np.flatnonzero(allowed_N) for allowed_N in sample.allowed]
    ends = np.cumsum([len(of_shard) for of_shard in pids])
    queries = []
    for length in np.rint(np.geomspace(*LENGTHS, count)).astype(int).tolist():
        number = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, number, "right"))
        pid = int(pids[index][number - ends[index]])
        Q_LD = _pseudo_query(sample.shards[index], pid, length, rng)
        queries.append(TrialQuery(Q_LD, (index, pid)))
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
