"""Spans around calls: an interceptor for each kind of server, and one end of a shard's transport.

They are put in place only where traces are on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import grpc

from cluster.telemetry.spans import failed, outgoing, server_span, span, tracing
from cluster.wire.request_context import caller, request_id, set_trace
from cluster.wire.status import code_from_number
from cluster.wire.types import FetchQuery, ShardAnswer, ShardQuery, StoredPassage

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Details = grpc.HandlerCallDetails
OPEN = "/grpc.health.v1.Health/"


class GatewaySpans(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """A span for each call of a gateway."""

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], details: Details
    ) -> Handler:
        """Put the span around the handler; health checks have none."""
        handler = await continuation(details)
        name = str(details.method).lstrip("/")
        if handler is None or str(details.method).startswith(OPEN):
            return handler
        metadata = details.invocation_metadata
        if handler.unary_unary is not None:
            unary = handler.unary_unary

            async def one(request: Any, context: Any) -> Any:
                with server_span(name, metadata, **_rpc(name)) as opened:
                    try:
                        return await unary(request, context)
                    finally:
                        _note(opened, context)

            return grpc.unary_unary_rpc_method_handler(
                one, handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            stream: Any = handler.unary_stream

            async def many(request: Any, context: Any) -> AsyncIterator[Any]:
                with server_span(name, metadata, **_rpc(name)) as opened:
                    try:
                        async for answer in stream(request, context):
                            yield answer
                    finally:
                        _note(opened, context)

            return grpc.unary_stream_rpc_method_handler(
                many, handler.request_deserializer, handler.response_serializer
            )
        return handler


def gateway_interceptors() -> Sequence[grpc.aio.ServerInterceptor]:  # type: ignore[type-arg]
    """What a gateway's server must be made with, before its guard."""
    return [GatewaySpans()] if tracing() else []


class ShardSpans(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """A span for each call of a shard server."""

    def __init__(self, shard_id: str) -> None:
        self._shard = shard_id

    def intercept_service(
        self, continuation: Callable[[Details], Handler | None], details: Details
    ) -> Handler | None:
        """Put the span around the handler; health checks have none."""
        handler = continuation(details)
        name = str(details.method).lstrip("/")
        if handler is None or handler.unary_unary is None or name.startswith(OPEN[1:]):
            return handler
        inner, shard = handler.unary_unary, self._shard
        metadata = details.invocation_metadata

        def traced(request: Any, context: grpc.ServicerContext) -> Any:
            with server_span(name, metadata, **_rpc(name), **{"tartan.shard": shard}) as opened:
                try:
                    answer = inner(request, context)
                    if hasattr(answer, "touched"):
                        opened.set_attribute("tartan.touched", answer.touched)
                        opened.set_attribute("tartan.scored", answer.scored)
                    return answer
                finally:
                    _note(opened, context)

        return grpc.unary_unary_rpc_method_handler(
            traced, handler.request_deserializer, handler.response_serializer
        )


def _rpc(name: str) -> dict[str, str]:
    service, _, method = name.rpartition("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _note(opened: Any, context: Any) -> None:
    """Request, caller and status of a call that has ended."""
    opened.set_attribute("tartan.request_id", request_id())
    if name := caller():
        opened.set_attribute("tartan.client", name)
    number = _number(context.code())
    opened.set_attribute("rpc.grpc.status_code", number)
    if number:
        failed(opened, code_from_number(number).name)


def _number(code: Any) -> int:
    """Of a status code as either kind of server gives it; 0, OK, where none was set."""
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code or 0)


class TracedTransport:
    """A shard's transport whose calls are spans, which those of the shard are children of."""

    def __init__(self, inner: Any, shard_id: str) -> None:
        """`inner`: a `ShardTransport`."""
        self._inner = inner
        self._about = {"tartan.shard": shard_id, "server.address": inner.address}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:
        """The shard's best passages."""
        with span("shard search", "CLIENT", **self._about):
            set_trace(outgoing())
            answer: ShardAnswer = await self._inner.search(query, timeout_s)
            return answer

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:
        """Passages in the order of `query.pids_M`."""
        with span("shard fetch", "CLIENT", **self._about):
            set_trace(outgoing())
            passages: list[StoredPassage] = await self._inner.fetch(query, timeout_s)
            return passages


def traced(connect: Callable[[str, str], Any]) -> Callable[[str, str], Any]:
    """How a gateway connects to shard servers, (address, shard id) → a transport: with spans, if
    traces are on."""
    if not tracing():
        return connect
    return lambda address, shard_id: TracedTransport(connect(address, shard_id), shard_id)
