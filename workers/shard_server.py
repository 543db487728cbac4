"""A shard server: one shard of one generation behind its own gRPC endpoint.

    held_shard.py    what is searched: plain values in and out, no gRPC
    ShardServer      a sync grpc.server around it, with the standard health service
    shard_lines.py   searches one after another over one open call
    turns.py         how many searches and fetches work at once, over lines or not
    shard_actor.py   the same as a Ray actor's class

The server is sync because the kernel is native and blocks: the GIL is released inside, and threads
that take turns are all that is needed. Beyond a number of calls gRPC itself answers
RESOURCE_EXHAUSTED at once. The deadline of a call is the kernel's deadline.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from cluster.wire import shard as convert
from cluster.wire.channels import DEFAULT_MAX_MESSAGE_BYTES, server_options
from cluster.wire.handlers import answering, deadline_after
from cluster.wire.inner_tls import InnerTls
from cluster.wire.requests import parsing
from cluster.wire.tartan.shard.v1 import shard_pb2, shard_pb2_grpc
from cluster.wire.token import TokenGuard
from colbert_core.errors import DeadlineExceeded, Unavailable
from colbert_core.hardware import processors
from workers.held_shard import HeldShard
from workers.shard_lines import MOST_LINES, Interceptor, ShardLines
from workers.turns import InTurn, Turns

SERVICE = "tartan.shard.v1.ShardService"
SEARCH = f"/{SERVICE}/Search"
IN_TURN = frozenset((SEARCH, f"/{SERVICE}/Fetch", f"/{SERVICE}/GetShardInfo"))
"""Also what is asked of a server to see whether it answers: it is to take as long as a search."""
DEFAULT_TIMEOUT_S = 60.0

# gRPC reads a call's message when a thread takes it; until then so much of it may arrive, which
# bounds what waiting calls take. Left to itself the window grows to megabytes.
WAITING_BYTES = 256 * 1024
WAITING_OPTIONS = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", WAITING_BYTES)]

# A gateway that vanished without closing would keep its lines, and their threads, for two hours.
VANISHED_OPTIONS = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
]


class _Servicer(shard_pb2_grpc.ShardServiceServicer):
    """The handlers: convert, check who is meant, call, convert."""

    def __init__(self, held: HeldShard, interceptors: Sequence[Interceptor]) -> None:
        """`interceptors`: of each search of a line."""
        self._held = held
        self.lines = ShardLines(SEARCH, self.Search, interceptors)

    def Searches(  # noqa: N802
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[shard_pb2.SearchesResponse]:
        return self.lines.serve(request_iterator, context)

    @answering
    def Search(  # noqa: N802
        self, request: shard_pb2.SearchRequest, context: grpc.ServicerContext
    ) -> shard_pb2.SearchResponse:
        deadline = _deadline(context)
        self._held.check_meant(request.generation, request.shard_id)
        answer = self._held.search(convert.query_from_proto(request), deadline)
        return convert.answer_to_proto(answer)

    @answering
    def Fetch(  # noqa: N802
        self, request: shard_pb2.FetchRequest, context: grpc.ServicerContext
    ) -> shard_pb2.FetchResponse:
        deadline = _deadline(context)
        self._held.check_meant(request.generation, request.shard_id)
        passages = self._held.fetch(convert.fetch_from_proto(request), deadline)
        return shard_pb2.FetchResponse(
            passages=[convert.passage_to_proto(passage) for passage in passages]
        )

    @answering
    def GetShardInfo(  # noqa: N802
        self,
        request: shard_pb2.GetShardInfoRequest,  # noqa: ARG002
        context: grpc.ServicerContext,
    ) -> shard_pb2.GetShardInfoResponse:
        _deadline(context)
        return convert.identity_to_proto(self._held.identity)


def _deadline(context: grpc.ServicerContext) -> float:
    """When the caller stops waiting, on time.monotonic().

    Raises:
        DeadlineExceeded: it stopped already, while the call waited for its turn; or the call was
            cancelled, because another replica was faster or the caller's caller went away.
    """
    remaining_s = context.time_remaining()
    if not context.is_active() or (remaining_s is not None and remaining_s <= 0):
        raise DeadlineExceeded(
            "the caller stopped waiting before it was the call's turn: nothing was done; this "
            "server has more to do than it can, add replicas"
        )
    return deadline_after(remaining_s, DEFAULT_TIMEOUT_S)


class ShardServer:
    """A gRPC server over one held shard."""

    def __init__(
        self,
        held: HeldShard,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        threads: int | None = None,
        max_concurrent: int = 256,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        token: str | None = None,
        tls: InnerTls | None = None,
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        """Bind and prepare; `start` begins to answer.

        Args:
            port: 0 takes a free one.
            threads: searches and fetches that run at once; by default one per CPU. More of them
                wait.
            max_concurrent: calls that run or wait; beyond it they are refused at once.
            token: if given, what every call but those to health must present.
            tls: the shard servers' certificates, for gateways alone; in clear text if None.
            interceptors: that see each call before the token is asked for.

        Raises:
            Unavailable: the address cannot be listened on.
        """
        at_once = threads or processors()
        turns = InTurn(Turns(at_once), IN_TURN, DEFAULT_TIMEOUT_S)
        self._pool = ThreadPoolExecutor(at_once + MOST_LINES, thread_name_prefix="shard")
        self._server = grpc.server(
            self._pool,
            options=[*server_options(max_message_bytes), *WAITING_OPTIONS, *VANISHED_OPTIONS],
            maximum_concurrent_rpcs=max_concurrent,
            interceptors=[turns, *interceptors, *([TokenGuard(token)] if token else [])],
        )
        servicer = _Servicer(held, [turns, *interceptors])
        self._lines = servicer.lines
        self._health = health.HealthServicer()
        self._services = ("", SERVICE, f"{SERVICE}/{held.identity.shard_id}")
        shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, parsing(self._server))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        try:
            if tls is None:
                self.port = self._server.add_insecure_port(f"{host}:{port}")
            else:
                self.port = self._server.add_secure_port(f"{host}:{port}", tls.of_server())
        except RuntimeError as error:
            raise Unavailable(
                f"a shard server cannot listen on {host}:{port}: {error}; choose another port, or "
                "port 0 for any free one"
            ) from error
        self.address = f"{host}:{self.port}"

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()
        for service in self._services:
            self._health.set(service, health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float = 5.0) -> None:
        """Refuse new calls, let those under way finish for up to `grace_s`, and end."""
        self._health.enter_graceful_shutdown()
        ended = self._server.stop(grace_s)
        self._lines.close()
        ended.wait()
        self._pool.shutdown(wait=False)
