"""A shard server's metrics: an interceptor that sees every call arrive, begin and end.

gRPC asks interceptors when a call arrives, and runs what they give in a thread of the pool, in its
turn (workers/turns.py): what lies in between is the time that the call waited.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

from cluster.telemetry.gateway_metrics import Series
from cluster.telemetry.registry import Registry
from cluster.wire.types import ShardIdentity

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
METHODS = ("Search", "Fetch")


class ShardMetrics(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """Counts the calls of one shard server; safe to share between threads."""

    def __init__(
        self,
        registry: Registry,
        shard: ShardIdentity,
        mapped_bytes: int,
        copied_bytes: Callable[[], int],
    ) -> None:
        """`mapped_bytes`: of the shard's files; `copied_bytes`: of these, at each scrape, what was
        copied into memory."""
        self._shard = shard.shard_id
        self._calls = Series(registry.counter("tartan_server_calls_total"))
        self._waited = registry.histogram("tartan_server_queue_seconds").labels(self._shard)
        self._took = {
            method: registry.histogram(f"tartan_server_{method.lower()}_seconds").labels(
                self._shard
            )
            for method in METHODS
        }
        self._touched = registry.histogram("tartan_server_touched_passages").labels(self._shard)
        self._scored = registry.histogram("tartan_server_scored_passages").labels(self._shard)
        self._running = registry.gauge("tartan_server_calls_in_flight").labels(self._shard)
        registry.gauge("tartan_server_passages").labels(self._shard).set(shard.passages)
        registry.gauge("tartan_server_tokens").labels(self._shard).set(shard.tokens)
        registry.gauge("tartan_server_mapped_bytes").labels(self._shard).set(mapped_bytes)
        copied = registry.gauge("tartan_server_copied_bytes").labels(self._shard)
        copied.set_function(lambda: float(copied_bytes()))
        held = registry.gauge("tartan_server_generation_info")
        held.labels(self._shard, shard.generation).set(1)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Count searches and fetches; all else goes on as it is."""
        arrived = time.monotonic()
        handler = continuation(details)
        method = str(details.method).rpartition("/")[2]
        if handler is None or handler.unary_unary is None or method not in METHODS:
            return handler
        inner = handler.unary_unary

        def counted(request: Any, context: grpc.ServicerContext) -> Any:
            with self._running.track_inprogress():
                began = time.monotonic()
                self._waited.observe(began - arrived)
                code = "OK"
                try:
                    answer = inner(request, context)
                except BaseException:  # abort() raises
                    code = _code_of(context)
                    raise
                finally:
                    self._calls[self._shard, method, code].inc()
                self._took[method].observe(time.monotonic() - began)
                if method == "Search":
                    self._touched.observe(answer.touched)
                    self._scored.observe(answer.scored)
                return answer

        return grpc.unary_unary_rpc_method_handler(
            counted, handler.request_deserializer, handler.response_serializer
        )


def _code_of(context: grpc.ServicerContext) -> str:
    code = getattr(context, "code", lambda: None)()  # which grpc's stubs do not know of
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
