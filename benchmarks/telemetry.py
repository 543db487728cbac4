"""What telemetry costs a query: microseconds of processor time in the gateway and in each shard.

    python benchmarks/telemetry.py [--shards 2] [--rounds 20000]

It replays the events of one query (as cluster/observer.py tells them) and the calls of one shard
server, without a network: what is measured is our own code on top of what is there anyway.
"""

from __future__ import annotations

import argparse
import io
import platform
import time
from collections.abc import Callable
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import grpc

from cluster.observer import Observer, QueryFinished, ShardCallFinished
from cluster.telemetry.logs import configure_logging
from cluster.telemetry.process import GatewayTelemetry, TelemetryConfig
from cluster.telemetry.ray_bridge import Copier
from cluster.telemetry.registry import Registry
from cluster.telemetry.shard_metrics import ShardMetrics
from cluster.telemetry.spans import span
from cluster.wire.request_context import begin_request, passed_on
from cluster.wire.types import Coverage, ShardIdentity

STAGES = dict.fromkeys(("queue", "encode", "probe", "fan_out", "merge", "fetch", "explain"), 1.0)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20_000)
    asked = parser.parse_args()
    registry = Registry()
    telemetry = GatewayTelemetry(TelemetryConfig())
    logging_all = GatewayTelemetry(TelemetryConfig(log_queries=True))
    configure_logging("json", io.StringIO())
    rows: list[tuple[str, Callable[[], Any]]] = [
        ("request id, made and passed on", _request),
        ("a stage's span, traces off", _stage),
        ("events, nobody listens", lambda: _query(Observer(), asked.shards)),
        ("events, metrics and slow-query log", lambda: _query(telemetry, asked.shards)),
        ("events, and a JSON line for every query", lambda: _query(logging_all, asked.shards)),
        ("one call of a shard server, metrics", _shard_call(registry)),
        ("copy of all metrics for Ray, every 5 s", _copy(registry)),
    ]
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, ",
        end="",
    )
    print(f"{asked.shards} shards, {asked.rounds:,} rounds; µs of processor time, best of 5")
    for name, work in rows:
        rounds = asked.rounds if "copy" not in name else max(1, asked.rounds // 100)
        print(f"{name:<45} {_best(work, rounds):8.2f}")


def _best(work: Callable[[], Any], rounds: int) -> float:
    """Microseconds of processor time that one round takes, in the best of five runs."""

    def run() -> float:
        began = time.process_time()
        for _ in range(rounds):
            work()
        return (time.process_time() - began) / rounds * 1e6

    return min(copy_context().run(run) for _ in range(5))


def _request() -> None:
    begin_request((("user-agent", "x"), ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")))
    passed_on()


def _stage() -> None:
    with span("encode"):
        pass


def _query(observer: Observer, shards: int) -> None:
    """All events of one answered query: a search and a fetch of each shard."""
    for shard in range(shards):
        for kind in ("search", "fetch"):
            name, address = f"g000001-1c63e2-{shard:04}", "10.0.0.1:7000"
            call = ShardCallFinished(kind, "g1", name, f"r{shard}", address, 0.0, 4.0, "OK")
            observer.shard_call_finished(call)
    observer.encoded(1, 0.1, 12.0)
    observer.cache_asked("embedding", False)
    observer.cache_asked("answer", False)
    whole = Coverage(shards, shards, 0, 0, 10_000, 10_000)
    observer.query_finished(
        QueryFinished(
            "notebook", "g1", 0.0, 20.0, STAGES, "OK",
            coverage=whole, k=10, query_tokens=16, text_chars=40, candidates=5_000, scored=160,
        )
    )  # fmt: skip


def _shard_call(registry: Registry) -> Callable[[], Any]:
    answer = SimpleNamespace(touched=5_000, scored=80)
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: answer)
    metrics = ShardMetrics(registry, ShardIdentity("g1", "s0", 10, 100, 128, "native"), 10**9)
    details: Any = SimpleNamespace(method="/tartan.shard.v1.ShardService/Search")

    def call() -> None:
        counted = metrics.intercept_service(lambda _: handler, details)
        assert counted is not None
        assert counted.unary_unary is not None
        counted.unary_unary(None, None)  # type: ignore[arg-type]  # no context is looked at

    return call


def _copy(registry: Registry) -> Callable[[], Any]:
    class Instrument:
        def __init__(self, *_: Any) -> None:
            pass

        def note(self, value: float, labels: dict[str, str]) -> None:
            pass

        inc = set = note

    copier = Copier(Instrument, Instrument)
    return lambda: copier.copy(registry.collectors)


if __name__ == "__main__":
    main()
