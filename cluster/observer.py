"""What happens in a gateway, told as it happens: where metrics, traces and logs look.

Every event is a plain value; an observer must not block, raise or keep what it is given for long,
since it is called on the gateway's event loop (`encoded` on it, too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from cluster.wire.types import Coverage
from colbert_core.types import SearchParams

CallKind = Literal["search", "fetch"]
CacheKind = Literal["embedding", "answer"]
Refusal = Literal["count", "bytes", "client_count", "client_rate", "late", "draining"]


@dataclass(frozen=True, slots=True)
class QueryFinished:
    """One query of `Search`, or of a batch, has an answer or an error.

    Attributes:
        client: name of the API key, else the peer's address without its port.
        generation: that it was pinned to; "" where it was refused before.
        started: on time.monotonic().
        total_ms: from the request being read to the answer being ready.
        stages_ms: milliseconds by stage ("queue", "encode", "probe", "fan_out", "merge", "fetch",
            "explain"), as far as it came.
        status: name of the gRPC status code, "OK" for an answer.
        error: the message of the error; "" for an answer.
        coverage: of the answer, or None.
        cached: whether the answer came from the cache.
        k, query_tokens, text_chars: what was asked, for the slow-query log (never the text).
        params: what was done, of an answer.
        candidates: passages that probed centroids led to, of all shards.
        scored: passages scored precisely, of all shards.
    """

    client: str
    generation: str
    started: float
    total_ms: float
    stages_ms: Mapping[str, float]
    status: str
    error: str = ""
    coverage: Coverage | None = None
    cached: bool = False
    k: int = 0
    query_tokens: int = 0
    text_chars: int = 0
    candidates: int = 0
    scored: int = 0
    params: SearchParams | None = None


@dataclass(frozen=True, slots=True)
class ShardCallFinished:
    """One attempt at one replica has ended.

    Attributes:
        started: on time.monotonic().
        status: "OK", the name of the error's class, or "cancelled": another attempt was faster, or
            the caller went away.
        hedge: whether another attempt of the same call was under way when this one began.
        search_ms: of a search that was answered, as the shard measured it.
    """

    kind: CallKind
    generation: str
    shard_id: str
    replica_id: str
    address: str
    started: float
    elapsed_ms: float
    status: str
    hedge: bool = False
    search_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaEvent:
    """Something was decided about one replica; `reason` is for people."""

    generation: str
    shard_id: str
    replica_id: str
    address: str
    reason: str
    for_s: float = field(default=0.0)


@dataclass(frozen=True, slots=True)
class GatewaySnapshot:
    """A gateway now.

    Attributes:
        in_flight: queries that wait or are worked on.
        queue_delay_ms: what queries of the last seconds waited before work on them began.
        table_version: of the routing table that it acts by.
        replicas: by shard of the live generation, how many are "up", "away", "ejected",
            "draining".
        cache_bytes: what the entries of each cache take.
    """

    in_flight: int
    queue_delay_ms: float
    table_version: int
    replicas: Mapping[str, Mapping[str, int]]
    cache_bytes: Mapping[str, int] = field(default_factory=dict)


class Observer:
    """Who wants to know: a subclass has the methods that it listens with, and each returns at once.
    The others ignore what they are told."""

    def query_finished(self, event: QueryFinished) -> None:
        """A query was answered or failed."""

    def shard_call_finished(self, event: ShardCallFinished) -> None:
        """An attempt at a replica ended, well or not."""

    def hedged(self, event: ReplicaEvent) -> None:
        """A second replica is asked because the first is slow; `event` names the second."""

    def retried(self, event: ReplicaEvent) -> None:
        """Another replica is asked because one failed; `event` names the new one."""

    def ejected(self, event: ReplicaEvent) -> None:
        """A replica gets no queries for `event.for_s` seconds."""

    def readmitted(self, event: ReplicaEvent) -> None:
        """An ejected replica answered a probe and gets queries again."""

    def refused(self, reason: Refusal, client: str) -> None:
        """A request was refused before any work, with RESOURCE_EXHAUSTED or UNAVAILABLE."""

    def encoded(self, queries: int, waited_ms: float, took_ms: float) -> None:
        """So many queries were encoded together; the oldest had waited for `waited_ms`."""

    def cache_asked(self, kind: CacheKind, hit: bool) -> None:
        """A cache was asked."""

    def generation_live(self, generation: str) -> None:
        """New queries are answered from this generation from now on."""
