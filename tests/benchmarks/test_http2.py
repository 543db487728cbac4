"""The load generator's own HTTP/2, against a server of gRPC's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from loadgen.http2 import Connection

REFUSED = "zu spät: 16 at once, 100 % full; ask less often"


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]  # without stubs
    """/test/echo answers what it got, /test/refuse with REFUSED, /test/sleep does not."""

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(getattr(self, details.method.split("/")[-1]))

    async def echo(self, request: bytes, _context: Any) -> bytes:
        return request

    async def refuse(self, _request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("tartan-error", "Overloaded"),))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, REFUSED)
        raise AssertionError

    async def sleep(self, _request: bytes, context: Any) -> bytes:
        self.left_s = context.time_remaining()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return b""


def against(
    method: str, check: Callable[[Connection, _Service, grpc.aio.Server], Awaitable[None]]
) -> None:
    async def run() -> None:
        server, service = grpc.aio.server(), _Service()
        server.add_generic_rpc_handlers((service,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        connection = await Connection.open(f"127.0.0.1:{port}", f"/test/{method}")
        try:
            async with asyncio.timeout(30):
                await check(connection, service, server)
        finally:
            connection.close()
            await server.stop(None)

    asyncio.run(run())


def test_answers_are_those_of_their_requests() -> None:
    """Empty ones, ones of several frames, and together more than a connection's first window."""

    async def check(connection: Connection, *_: object) -> None:
        requests = [bytes([number % 256]) * size for number in range(60) for size in (0, 9, 50_000)]
        replies = await asyncio.gather(*(connection.call(one, 20.0) for one in requests))
        assert [reply.answer for reply in replies] == requests
        assert {reply.status for reply in replies} == {0}

    against("echo", check)


def test_a_status_comes_with_its_message_and_trailers() -> None:
    async def check(connection: Connection, *_: object) -> None:
        for _ in range(3):  # the first block of headers is another one than those after it
            reply = await connection.call(b"x", 5.0)
            assert (reply.status, reply.message, reply.answer) == (8, REFUSED, b"")
            assert ("tartan-error", "Overloaded") in reply.trailers

    against("refuse", check)


def test_the_server_knows_the_deadline_and_that_nobody_waits_any_more() -> None:
    async def check(connection: Connection, service: _Service, _server: object) -> None:
        with pytest.raises(TimeoutError):
            await connection.call(b"x", 0.3)
        assert 0.0 < service.left_s <= 0.3
        while not getattr(service, "cancelled", False):
            await asyncio.sleep(0.01)

    against("sleep", check)


def test_a_server_that_ends_fails_what_is_under_way_and_what_comes() -> None:
    async def check(connection: Connection, _service: _Service, server: grpc.aio.Server) -> None:
        waiting = asyncio.create_task(connection.call(b"x", 20.0))
        await asyncio.sleep(0.1)
        await server.stop(None)
        with pytest.raises(ConnectionError):
            await waiting
        with pytest.raises(ConnectionError):
            await connection.call(b"x", 1.0)

    against("sleep", check)


def test_a_request_beyond_a_window_is_refused_before_it_is_sent() -> None:
    async def check(connection: Connection, *_: object) -> None:
        with pytest.raises(ValueError, match="a request of 100000005 bytes"):
            await connection.call(bytes(100_000_000), 5.0)
        assert (await connection.call(b"still", 5.0)).answer == b"still"

    against("echo", check)
