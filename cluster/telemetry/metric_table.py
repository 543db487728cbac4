"""Every metric of Tartan, in one table: docs/observability.md repeats it, and a test compares them.

Names follow Prometheus: `tartan_`, base units (seconds, bytes), `_total` for counters. Labels take
few values: a status code, a stage, a shard of a generation that is served. Nothing that a client
sends is ever one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
COUNTS = (10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `buckets` are the upper bounds of a histogram's."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "counter", help, labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", help, labels)


def _seconds(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "histogram", help, labels, SECONDS)


def _counts(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "histogram", help, labels, COUNTS)


GATEWAY = (
    _counter("tartan_queries_total", "Queries that ended, by gRPC status code.", "code"),
    _seconds("tartan_query_seconds", "From the request read to the answer ready, of answers."),
    _seconds("tartan_query_stage_seconds", "The stages of answers.", "stage"),
    _counts("tartan_query_touched_passages", "Passages of a query that probed centroids led to."),
    _counts("tartan_query_scored_passages", "Passages of a query that were scored precisely."),
    _gauge("tartan_queries_in_flight", "Queries that wait or are worked on."),
    _counter("tartan_passages_asked_total", "Passages that answers were to be found among."),
    _counter("tartan_passages_searched_total", "Of these, those of shards that answered."),
    _counter("tartan_partial_answers_total", "Answers that lack a shard (allow_partial)."),
    _counter("tartan_refused_total", "Requests refused before any work, by why.", "reason"),
    _gauge("tartan_queue_seconds_recent", "What queries waited before work began, a recent mean."),
    _counts("tartan_encode_batch_queries", "Queries that were encoded together."),
    _seconds("tartan_encode_wait_seconds", "What the oldest query of a batch waited for it."),
    _seconds(
        "tartan_shard_call_seconds",
        "Answered attempts at a replica, on the gateway's clock.",
        "shard",
        "method",
    ),
    _counter(
        "tartan_shard_calls_total",
        "Attempts at a replica, by how they ended: OK, cancelled, or the class of the error.",
        "shard",
        "method",
        "outcome",
    ),
    _counter("tartan_shard_hedges_total", "Second attempts, for the first was slow.", "shard"),
    _counter("tartan_shard_hedges_won_total", "Of these, those that were faster.", "shard"),
    _counter("tartan_shard_retries_total", "Attempts at another replica, for one failed.", "shard"),
    _counter("tartan_replica_ejections_total", "Sick replicas left out for a while.", "shard"),
    _counter("tartan_replica_readmissions_total", "Of these, those that came back.", "shard"),
    _gauge("tartan_shard_replicas", "Replicas that a gateway knows, by state.", "shard", "state"),
    _counter(
        "tartan_cache_lookups_total",
        "Lookups in the cache of embeddings and in that of answers.",
        "cache",
        "result",
    ),
    _gauge("tartan_cache_bytes", "What the entries take.", "cache"),
    _gauge(
        "tartan_live_generation_info", "1 for what new queries are answered from.", "generation"
    ),
    _counter("tartan_generation_switches_total", "Switches to another generation."),
    _gauge("tartan_routing_table_version", "Of the table that this gateway acts by."),
    _gauge("tartan_certificate_not_after_seconds", "When the certificate ends, since 1970."),
)

SHARD_SERVER = (
    _counter(
        "tartan_server_calls_total",
        "Calls that ended, by gRPC status code.",
        "shard",
        "method",
        "code",
    ),
    _seconds("tartan_server_search_seconds", "A search, in the shard.", "shard"),
    _seconds("tartan_server_fetch_seconds", "Reading passages and matching their tokens.", "shard"),
    _seconds("tartan_server_queue_seconds", "What calls waited for their turn.", "shard"),
    _counts("tartan_server_touched_passages", "Passages that a probed centroid led to.", "shard"),
    _counts("tartan_server_scored_passages", "Passages that were scored precisely.", "shard"),
    _gauge("tartan_server_calls_in_flight", "Calls that wait or run.", "shard"),
    _gauge("tartan_server_passages", "Passages that can be found.", "shard"),
    _gauge("tartan_server_tokens", "Their token vectors.", "shard"),
    _gauge("tartan_server_mapped_bytes", "Files of the shard.", "shard"),
    _gauge("tartan_server_copied_bytes", "Of these, what is copied into memory.", "shard"),
    _gauge(
        "tartan_server_generation_info",
        "1 for the shard and generation that is held.",
        "shard",
        "generation",
    ),
)

PROCESS = (
    _gauge("tartan_build_info", "1; what runs.", "version", "python", "kernels"),
    _gauge("tartan_resident_file_bytes", "Of mapped files, what lies in memory."),
    _gauge("tartan_resident_anonymous_bytes", "Memory that is no file's."),
    # prometheus_client's own, which dashboards of every process know.
    _gauge("process_resident_memory_bytes", "Memory that the process has."),
    _gauge("process_virtual_memory_bytes", "Address space that the process has."),
    _counter("process_cpu_seconds_total", "Processor time."),
    _gauge("process_start_time_seconds", "When the process began, since 1970."),
    _gauge("process_open_fds", "File descriptors."),
    _gauge("process_max_fds", "As many as it may have."),
)

METRICS = (*GATEWAY, *SHARD_SERVER, *PROCESS)
TABLE = {metric.name: metric for metric in METRICS}
