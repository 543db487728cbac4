"""A gateway's events as metrics: an `Observer` (cluster/observer.py) that counts.

It runs on the gateway's event loop, some microseconds a query: series are looked up by name once.
Labels that name a shard go when no generation that is served has it any more.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from cluster.observer import (
    CacheKind,
    Observer,
    QueryFinished,
    Refusal,
    ReplicaEvent,
    ShardCallFinished,
)
from cluster.telemetry.registry import Registry


class Series(dict[Any, Any]):
    """The series of one metric by their labels, without `labels()`, which takes a lock."""

    def __init__(self, metric: Counter | Gauge | Histogram) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: str | tuple[str, ...]) -> Any:
        values = (labels,) if isinstance(labels, str) else labels
        found = self[labels] = self._metric.labels(*values)
        return found


class GatewayMetrics(Observer):
    """Counts what happens in one gateway. Belongs to one event loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._queries = Series(registry.counter("tartan_queries_total"))
        self._seconds = registry.histogram("tartan_query_seconds")
        self._stages = Series(registry.histogram("tartan_query_stage_seconds"))
        self._touched = registry.histogram("tartan_query_touched_passages")
        self._scored = registry.histogram("tartan_query_scored_passages")
        self._asked = registry.counter("tartan_passages_asked_total")
        self._searched = registry.counter("tartan_passages_searched_total")
        self._partial = registry.counter("tartan_partial_answers_total")
        self._refused = Series(registry.counter("tartan_refused_total"))
        self._batch = registry.histogram("tartan_encode_batch_queries")
        self._batch_wait = registry.histogram("tartan_encode_wait_seconds")
        self._call_seconds = Series(registry.histogram("tartan_shard_call_seconds"))
        self._calls = Series(registry.counter("tartan_shard_calls_total"))
        self._hedges = Series(registry.counter("tartan_shard_hedges_total"))
        self._hedges_won = Series(registry.counter("tartan_shard_hedges_won_total"))
        self._retries = Series(registry.counter("tartan_shard_retries_total"))
        self._ejections = Series(registry.counter("tartan_replica_ejections_total"))
        self._readmissions = Series(registry.counter("tartan_replica_readmissions_total"))
        self._lookups = Series(registry.counter("tartan_cache_lookups_total"))
        self._live = Series(registry.gauge("tartan_live_generation_info"))
        self._switches = registry.counter("tartan_generation_switches_total")
        self._generations: tuple[str, ...] = ()  # that are live, and were before
        self._last_of: dict[str, str] = {}  # shard → the generation that it was asked for last

    def query_finished(self, event: QueryFinished) -> None:
        """Count a query; times are those of answers."""
        self._queries[event.status].inc()
        if event.status != "OK":
            return
        self._seconds.observe(event.total_ms / 1e3)
        for stage, milliseconds in event.stages_ms.items():
            if stage != "total":
                self._stages[stage].observe(milliseconds / 1e3)
        if event.cached:
            return
        self._touched.observe(event.candidates)
        self._scored.observe(event.scored)
        if event.coverage is not None:
            self._asked.inc(event.coverage.passages_total)
            self._searched.inc(event.coverage.passages_searched)
            if not event.coverage.complete:
                self._partial.inc()

    def shard_call_finished(self, event: ShardCallFinished) -> None:
        """Count an attempt; times are those of answers."""
        self._last_of[event.shard_id] = event.generation
        self._calls[event.shard_id, event.kind, event.status].inc()
        if event.status == "OK":
            self._call_seconds[event.shard_id, event.kind].observe(event.elapsed_ms / 1e3)
            if event.hedge:
                self._hedges_won[event.shard_id].inc()

    def hedged(self, event: ReplicaEvent) -> None:
        """Count a second attempt."""
        self._hedges[event.shard_id].inc()

    def retried(self, event: ReplicaEvent) -> None:
        """Count an attempt at another replica."""
        self._retries[event.shard_id].inc()

    def ejected(self, event: ReplicaEvent) -> None:
        """Count a replica that is left out."""
        self._ejections[event.shard_id].inc()

    def readmitted(self, event: ReplicaEvent) -> None:
        """Count a replica that is back."""
        self._readmissions[event.shard_id].inc()

    def refused(self, reason: Refusal, client: str) -> None:  # noqa: ARG002
        """Count a refusal; clients are no label, for there may be any number."""
        self._refused[reason].inc()

    def encoded(self, queries: int, waited_ms: float, took_ms: float) -> None:  # noqa: ARG002
        """Count a batch; how long encoding takes is a stage of each query."""
        self._batch.observe(queries)
        self._batch_wait.observe(waited_ms / 1e3)

    def cache_asked(self, kind: CacheKind, hit: bool) -> None:
        """Count a lookup."""
        self._lookups[kind, "hit" if hit else "miss"].inc()

    def generation_live(self, generation: str) -> None:
        """Show the generation, and forget shards that it and the one before do not have."""
        if generation == (self._generations or ("",))[0]:
            return
        if self._generations:
            self._switches.inc()
            self._registry.forget("generation", self._generations[0])
        self._generations = (generation, *self._generations[:1])
        left = [s for s, last in self._last_of.items() if last not in self._generations]
        for shard in left:
            self._registry.forget("shard", shard)
            del self._last_of[shard]
        for series in vars(self).values():
            if isinstance(series, Series):
                series.clear()
        self._live[generation].set(1)
