"""The least that a cluster can add over gRPC: a gateway and shards that do nothing.

The same shape as ours, in processes of their own: a grpc.aio server that passes each request on to
every one of the sync servers behind it, together, and answers when the last one has.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import grpc

METHOD = "/bare.Service/Call"
START_TIMEOUT_S = 60.0


class _One(grpc.GenericRpcHandler):  # type: ignore[misc]  # without stubs
    """Every method is this one, of bytes to bytes."""

    def __init__(self, behaviour: Callable[[bytes, Any], Any]) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(behaviour)

    def service(self, details: Any) -> Any:  # noqa: ARG002
        return self._handler


@contextmanager
def bare_cluster(shards: int, answer_bytes: int) -> Iterator[Callable[[bytes], bytes]]:
    """Gives a call through the gateway to all shards, each of which answers `answer_bytes`."""
    spawn = multiprocessing.get_context("spawn")
    started = []

    def start(work: Callable[..., None], *args: Any) -> str:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=work, args=(theirs, *args), daemon=True)
        process.start()
        started.append((process, ours))
        if not ours.poll(START_TIMEOUT_S):
            raise TimeoutError(f"a bare server did not start in {START_TIMEOUT_S:g} s")
        return str(ours.recv())

    try:
        behind = [start(_shard, answer_bytes) for _ in range(shards)]
        with grpc.insecure_channel(start(_gateway, behind)) as channel:
            yield channel.unary_unary(METHOD)
    finally:
        for process, _ in started:
            process.terminate()
            process.join(10)


def _shard(pipe: Connection, answer_bytes: int) -> None:
    answer = bytes(answer_bytes)
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_One(lambda _request, _context: answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pipe.send(f"127.0.0.1:{port}")
    server.wait_for_termination()


def _gateway(pipe: Connection, behind: list[str]) -> None:
    async def serve() -> None:
        calls = [grpc.aio.insecure_channel(address).unary_unary(METHOD) for address in behind]

        async def pass_on(request: bytes, _context: Any) -> bytes:
            answers = await asyncio.gather(*(call(request) for call in calls))
            return b"".join(answers)

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_One(pass_on),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(serve())
