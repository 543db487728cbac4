"""Calls of a gateway, taken in: their request arrives in time, and only so many are worked on.

gRPC reads a request before it calls a handler, and waits for it without end. Who opens calls and
sends nothing, or a byte now and then, would so hold places that `maximum_concurrent_rpcs` counts,
until nobody else is let in; watching health, which needs no key, holds one for good. So here a
request has a time to arrive in, work is counted only from then on, and watchers by themselves.

A search that would be late is refused before its request is read, which is a third of what refusing
it costs: past saturation most are.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import grpc

from cluster.wire.handlers import AsyncContext, abort_async
from colbert_core.errors import DeadlineExceeded, Overloaded, TartanError

ARRIVAL_TIMEOUT_S = 10.0
MAX_WATCHERS = 1_000
WATCH = "/grpc.health.v1.Health/Watch"
SEARCH = "/tartan.v1.SearchService/Search"

Details = grpc.HandlerCallDetails
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Places:
    """So many at once. Belongs to one event loop."""

    def __init__(self, count: int, what: str) -> None:
        self.free = count
        self._full = f"{count} {what} are under way, which is the limit: ask again a little later"

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place for as long as the block runs.

        Raises:
            Overloaded: there is none.
        """
        if not self.free:
            raise Overloaded(self._full)
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


class Intake(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """The outermost interceptor of a gateway: what the others made of a method is called only when
    its request is here."""

    def __init__(self, max_concurrent: int, check_search: Callable[[AsyncContext], None]) -> None:
        """`check_search` raises Overloaded for a search that is not worth reading."""
        self._check_search = check_search
        self._calls = Places(max_concurrent, "calls")
        self._watchers = Places(MAX_WATCHERS, "watchers of health")
        self._arrival_timeout_s = ARRIVAL_TIMEOUT_S

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], details: Details
    ) -> Handler:
        """Put it around the handler."""
        handler: Any = await continuation(details)
        if handler is None or handler.request_streaming:  # refusals, and reflection
            return cast("Handler", handler)
        places = self._watchers if details.method == WATCH else self._calls
        if handler.response_streaming:
            make, taken = grpc.stream_stream_rpc_method_handler, self._stream(handler, places)
        else:
            check = self._check_search if details.method == SEARCH else None
            make, taken = grpc.stream_unary_rpc_method_handler, self._unary(handler, places, check)
        return make(taken, handler.request_deserializer, handler.response_serializer)

    def _unary(
        self, handler: Any, places: Places, check: Callable[[AsyncContext], None] | None
    ) -> Any:
        async def taken(requests: AsyncIterator[Any], context: AsyncContext) -> Any:
            try:
                if check is not None:
                    check(context)
                request = await self._arrived(requests, context)
                with places.taken():
                    return await handler.unary_unary(request, context)
            except Overloaded as error:  # of ours: a handler's own are statuses already
                await abort_async(context, error)

        return taken

    def _stream(self, handler: Any, places: Places) -> Any:
        behaviour = handler.unary_stream

        async def taken(requests: AsyncIterator[Any], context: AsyncContext) -> None:
            request = await self._arrived(requests, context)
            try:
                with places.taken():
                    if not inspect.isasyncgenfunction(behaviour):
                        await behaviour(request, context)
                        return
                    async for answer in behaviour(request, context):
                        await context.write(answer)
            except Overloaded as error:
                await abort_async(context, error)

        return taken

    async def _arrived(self, requests: AsyncIterator[Any], context: AsyncContext) -> Any:
        """The one request of a call."""
        error: TartanError
        try:
            async with asyncio.timeout(self._arrival_timeout_s):
                async for request in requests:
                    return request
            error = Overloaded("the call ended without a request")
        except TimeoutError:
            error = DeadlineExceeded(
                f"no whole request arrived in {self._arrival_timeout_s:g} s: send it at once, "
                "or less of it"
            )
        return await abort_async(context, error)
