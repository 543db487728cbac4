"""Searching an open generation in one process: probe once, search each shard, merge.

    query ─ rotate ─ probe centroids ─ per shard: candidates ─ approximate ─ exact ─ merge

The gateway does the same with shards behind gRPC; both give the same hits.
"""

from __future__ import annotations

import math
import time

import numpy as np

from colbert_core.filters import Filter, check_filter
from colbert_core.index import Generation, ShardReader
from colbert_core.search.matching import Matcher
from colbert_core.search.merge import Merged, merge
from colbert_core.search.selective import narrowed
from colbert_core.search.windows import best_windows
from colbert_core.types import F32, I32, U8, SearchParams, ShardTopK


def search_shard(
    shard: ShardReader,
    Q_LD: F32,
    probes: tuple[I32, F32] | None,
    params: SearchParams,
    allowed_N: U8 | None = None,
    deadline_s: float = 0.0,
) -> ShardTopK:
    """The best passages of one shard; of a document in windows, its best.

    Args:
        shard: where to search.
        Q_LD: the rotated query, float32 [L, D].
        probes: centroid ids int32 [L, P] and scores float32 [L, P], or None for an exact search.
        params: how much work to do, where nothing is left out.
        allowed_N: uint8 [N], 0 for passages to leave out; None allows all. Deleted ones never are.
        deadline_s: absolute `time.monotonic()` time to give up at; 0 for none.

    Raises:
        TimeoutError: the deadline passed.
    """
    if allowed_N is not None:
        params = _narrowed(shard, params, allowed_N)
    allowed_N = shard.allowed(allowed_N)
    live = shard.passages if allowed_N is None else _count(allowed_N)

    def search(params: SearchParams) -> ShardTopK:
        return _search(shard, Q_LD, probes, params, allowed_N, deadline_s)

    if shard.windows is None:
        return search(params)
    first_N = shard.windows.is_first_N
    documents = np.count_nonzero(first_N if allowed_N is None else first_N & allowed_N.view(bool))
    return best_windows(search, params, shard.windows.documents_N, live, int(documents))


def _narrowed(shard: ShardReader, params: SearchParams, allowed_N: U8) -> SearchParams:
    """What to do in a shard of which a filter allows some passages."""
    live_N = shard.allowed(allowed_N)
    left = 0 if live_N is None else _count(live_N)
    return narrowed(params, left, shard.entry.live_passages, shard.entry.live_tokens)


def _count(allowed_N: U8) -> int:
    return int(np.count_nonzero(allowed_N.view(bool)))


def _search(
    shard: ShardReader,
    Q_LD: F32,
    probes: tuple[I32, F32] | None,
    params: SearchParams,
    allowed_N: U8 | None,
    deadline_s: float,
) -> ShardTopK:
    """The best passages, windows like any other."""
    if params.exact or probes is None:
        found = shard.kernel.exhaustive(Q_LD, params.k, allowed_N, deadline_s)
    else:
        found = shard.kernel.search(
            Q_LD,
            *probes,
            params.k,
            params.candidates,
            allowed_N,
            deadline_s,
            math.inf if params.margin is None else params.margin,
            params.scored,
            params.missed or 0.0,
            params.spread,
        )
    return ShardTopK(*found)


class Searcher:
    """Searches all shards of a generation; immutable, safe to share between threads."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        self._fields = generation.manifest.metadata_fields
        self._matchers = [Matcher(shard) for shard in generation.shards]

    def search(
        self,
        Q_LD: F32,
        params: SearchParams,
        allowed: list[U8] | None = None,
        timeout_s: float | None = None,
    ) -> Merged:
        """The best k passages for a checked query in the model's space.

        Args:
            Q_LD: float32 [L, D].
            params: from `derive_params`.
            allowed: for each shard uint8 [N], 0 for passages to leave out; None allows all.
            timeout_s: give up after so many seconds.

        Raises:
            TimeoutError: the time is over.
        """
        deadline_s = time.monotonic() + timeout_s if timeout_s else 0.0
        codec = self.generation.codec
        rotated_LD = codec.rotate(Q_LD)
        probes = (
            None
            if self._all_exact(params, allowed)
            else self.generation.table.probe(
                rotated_LD,
                params.nprobe,
                # where hits are ranked by postings alone, nothing asks for them
                keep_rows=params.scored > 0 or params.candidates > params.k,
            )
        )
        parts = [
            search_shard(
                shard, rotated_LD, probes, params, allowed[i] if allowed else None, deadline_s
            )
            for i, shard in enumerate(self.generation.shards)
        ]
        return merge(parts, params.k)

    def _all_exact(self, params: SearchParams, allowed: list[U8] | None) -> bool:
        """Whether every shard scores all that it may find, so that nothing is probed."""
        if params.exact or allowed is None:
            return params.exact
        return all(
            _narrowed(shard, params, allowed_N).exact
            for shard, allowed_N in zip(self.generation.shards, allowed, strict=True)
        )

    def allowed(self, wanted: Filter | None) -> list[U8] | None:
        """For each shard uint8 [N], 1 where a passage may be found; None where all may.

        Raises:
            QueryError: the index has no such field, or cannot compare it so.
        """
        if wanted is None:
            return None
        check_filter(wanted, self._fields)
        return [matcher.allowed(wanted) for matcher in self._matchers]
