"""One shard of one generation as it is held for searching: plain values in and out, no gRPC."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.wire.types import (
    Along,
    FetchQuery,
    ShardAnswer,
    ShardIdentity,
    ShardQuery,
    StoredPassage,
)
from colbert_core.errors import IndexCorrupt, IndexMissing, QueryError
from colbert_core.index import (
    Lease,
    Pin,
    ShardReader,
    discard,
    files_of,
    keep_in_memory,
    open_generation,
    verify_checksums,
)
from colbert_core.reference.choosing import MOST_SPREAD
from colbert_core.search import Matcher, check_query, search_shard
from colbert_core.types import I32, I64, SearchParams


class _DamagedInCache(IndexCorrupt):
    """A fetched shard is not what was fetched."""

    def __init__(self, folder: Path, message: str) -> None:
        super().__init__(message)
        self.folder = folder


class HeldShard:
    """One open shard of one generation; safe to share between threads."""

    def __init__(
        self,
        generation: str,
        shard: ShardReader,
        lease: Lease | Pin | None = None,
        mapped_bytes: int = 0,
    ) -> None:
        """`mapped_bytes`: of the shard's files."""
        self.generation = generation
        self.mapped_bytes = mapped_bytes
        self.lease = lease  # kept: what is served is neither collected nor evicted
        self.shard = shard
        _ = shard.kernel  # made now, so that a damaged shard is found before serving
        _ = shard.live_N
        self.dim = shard.codec.dim
        self.centroids = shard.codec.centroid_count
        self._matcher = Matcher(shard)

    @classmethod
    def open(
        cls, index: str | Path, generation: str, shard_id: str, device: str = "cpu"
    ) -> HeldShard:
        """Open a shard, live generation or not, after checking every byte of its files.

        Reading them all also warms the page cache. Of an index in a bucket the shard's files, and
        the codec's, are fetched first; where they lie in the cache already and are damaged there,
        once more.

        Args:
            index: its folder, or its URI.
            device: where to search, as `open_generation` takes it.

        Raises:
            InvalidInput: there is no such device here.
            IndexMissing: the index has no such generation, or it has no such shard.
            IndexCorrupt: a file is missing, truncated, altered, or does not fit the manifest.
            StorageError, Unavailable: the bucket refuses, or does not answer.
        """
        try:
            return cls._open(index, generation, shard_id, device)
        except _DamagedInCache as error:
            discard(error.folder)
            return cls._open(index, generation, shard_id, device)

    @classmethod
    def _open(cls, index: str | Path, generation: str, shard_id: str, device: str) -> HeldShard:
        opened = open_generation(
            index, shards=[shard_id], generation=generation, device=device, in_memory=None
        )
        if not opened.shards:
            known = ", ".join(shard.id for shard in opened.manifest.shards)
            raise IndexMissing(f"{index}: generation {generation} has no shard {shard_id}; {known}")
        under = files_of(opened.shards[0].entry)
        try:
            for name in under:
                verify_checksums(opened.path, opened.manifest, under=name)
        except IndexCorrupt as error:
            if not isinstance(opened.lease, Pin):
                raise
            raise _DamagedInCache(opened.path / "shards" / shard_id, str(error)) from error
        mapped = sum(
            file.size_bytes
            for name, file in opened.manifest.files.items()
            if name.startswith(under)
        )
        return cls(generation, opened.shards[0], opened.lease, mapped)

    @property
    def copied_bytes(self) -> int:
        """Of the shard's files, what was copied into memory and is searched there."""
        return self.shard.copied_bytes

    def settle(self) -> bool:
        """Copy into memory what did not fit when the shard was opened, where it does now, as after
        a rollout; whether nothing is left to do.

        Raises:
            IndexCorrupt: a file cannot be read.
        """
        on_cpu = self.shard.table is self.shard.codec.centroid_table
        return not on_cpu or self.copied_bytes > 0 or keep_in_memory([self.shard], None)

    @property
    def identity(self) -> ShardIdentity:
        """What is held here."""
        entry = self.shard.entry
        return ShardIdentity(
            self.generation,
            entry.id,
            entry.live_passages,
            entry.live_tokens,
            self.dim,
            self.shard.implementation,
        )

    def search(self, query: ShardQuery, deadline: float) -> ShardAnswer:
        """Search; `deadline` is on time.monotonic().

        Raises:
            QueryError: the query does not fit this shard.
            TimeoutError: the deadline passed; the message names the stage.
        """
        query_LD = check_query(query.query_LD, self.dim)
        probes = None if query.exact else self._checked_probes(query)
        params = _checked_params(query, 0 if probes is None else probes[0].shape[1])
        started = time.monotonic()
        allowed_N = None if query.filter is None else self._matcher.allowed(query.filter)
        top = search_shard(self.shard, query_LD, probes, params, allowed_N, deadline)
        search_ms = (time.monotonic() - started) * 1e3
        return ShardAnswer(top, search_ms, self._along(query.along, top.pids_K, deadline))

    def _along(
        self, along: Along | None, pids_K: I64, deadline: float
    ) -> tuple[StoredPassage, ...]:
        if along is None:
            return ()
        return tuple(
            self._stored(pid, along.with_text, along.with_metadata, deadline)
            for pid in pids_K[: along.passages].tolist()
        )

    def fetch(self, query: FetchQuery, deadline: float) -> list[StoredPassage]:
        """Fetch passages, and match their tokens with the query's where one is given.

        Raises:
            QueryError: an ordinal is out of range, or the query does not fit this shard.
            TimeoutError: the deadline passed.
        """
        self._check_pids(query.pids_M)
        query_LD = None if query.query_LD is None else check_query(query.query_LD, self.dim)
        stored = []
        for pid in query.pids_M.tolist():
            passage = self._stored(pid, query.with_text, query.with_metadata, deadline)
            if query_LD is not None:
                tokens_L, scores_L = self.shard.kernel.match(query_LD, pid)
                passage = replace(passage, match_tokens_L=tokens_L, match_scores_L=scores_L)
            stored.append(passage)
        return stored

    def _stored(
        self, pid: int, with_text: bool, with_metadata: bool, deadline: float
    ) -> StoredPassage:
        if time.monotonic() > deadline:
            raise TimeoutError("the deadline passed while passages were fetched")
        if not with_text and not with_metadata:
            return StoredPassage(self.shard.id(pid), None, "", window=self.shard.window(pid))
        row = self.shard.stored(pid)
        return StoredPassage(
            id=row.id,
            text=row.text if with_text else None,
            metadata_json=(row.metadata_json or "{}") if with_metadata else "",
            window=row.window,
        )

    def check_meant(self, generation: str, shard_id: str) -> None:
        """Raise IndexMissing unless a call means this shard of this generation."""
        held = (self.generation, self.shard.entry.id)
        if (generation, shard_id) != held:
            raise IndexMissing(
                f"this server holds shard {held[1]} of generation {held[0]}, not shard {shard_id} "
                f"of generation {generation}: the gateway's routes are out of date"
            )

    def _checked_probes(self, query: ShardQuery) -> tuple[I32, np.ndarray]:
        ids_LP, scores_LP = query.probe_ids_LP, query.probe_scores_LP
        if ids_LP is None or scores_LP is None or not ids_LP.size:
            raise QueryError("the query has no probes: send some, or set exact")
        if ids_LP.min() < 0 or ids_LP.max() >= self.centroids:
            raise QueryError(f"a probed centroid is not in 0…{self.centroids - 1} of this index")
        return np.ascontiguousarray(ids_LP, np.int32), np.ascontiguousarray(scores_LP, np.float32)

    def _check_pids(self, pids_M: I64) -> None:
        count = self.shard.entry.passages
        if pids_M.size and (pids_M.min() < 0 or pids_M.max() >= count):
            bad = next(int(pid) for pid in pids_M if not 0 <= pid < count)
            raise QueryError(f"passage {bad} is not in 0…{count - 1} of this shard")


def _checked_params(query: ShardQuery, nprobe: int) -> SearchParams:
    if query.k < 1 or (query.candidates < 1 and not query.exact):
        raise QueryError(f"k is {query.k} and candidates {query.candidates}; both start at 1")
    if query.margin is not None and not query.margin >= 0:
        raise QueryError(f"margin is {query.margin}; it starts at 0")
    if query.missed is not None and not 0 < query.missed <= 1:
        raise QueryError(f"missed is {query.missed}; it is a share above 0 and at most 1")
    if not 0 <= query.spread <= MOST_SPREAD:
        raise QueryError(f"spread is {query.spread}; it lies between 0 and {MOST_SPREAD:g}")
    return SearchParams(
        query.k,
        nprobe,
        query.candidates,
        query.scored,
        query.exact,
        query.margin,
        query.missed,
        query.spread,
    )
