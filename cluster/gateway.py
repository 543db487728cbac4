"""The gateway: the public API on a grpc.aio server. Stateless; all of its state can be made again.

    request ─ SearchServicer ─ the live generation's SearchPipeline ─ answer
              gateway_service.py     gateway_generation.py, gateway_search.py
                                     ▲
    routing table ─ TableFollower ───┘   gateway_follow.py

Beside the search service it offers the standard health service (gateway_health.py) and server
reflection, so that grpcurl needs no .proto files.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import grpc
from grpc_reflection.v1alpha import reflection

from cluster.fan_out import Connect
from cluster.gateway_cache import ByteLru
from cluster.gateway_config import GatewayConfig, guard_of
from cluster.gateway_encoder import Encoders
from cluster.gateway_encoding import EncodeQueue, Key
from cluster.gateway_follow import TableFollower
from cluster.gateway_generation import Equipment
from cluster.gateway_health import GatewayHealth
from cluster.gateway_intake import Intake
from cluster.gateway_limits import DEFAULT_LIMITS
from cluster.gateway_service import SearchServicer
from cluster.observer import GatewaySnapshot, Observer
from cluster.security.tls import server_credentials
from cluster.telemetry.call_spans import gateway_interceptors, traced
from cluster.topology import GatewayReport, TableSource
from cluster.wire.channels import server_options
from cluster.wire.requests import parsing
from cluster.wire.tartan.v1 import search_pb2_grpc
from cluster.wire.types import Limits
from colbert_core.errors import AddressInUse
from colbert_core.types import F32

__all__ = ["Gateway", "GatewayConfig", "GatewayService", "guard_of"]

SERVICE = "tartan.v1.SearchService"
HEALTH = "grpc.health.v1.Health"
STOP_MARGIN_S = 5.0

log = logging.getLogger(__name__)


class GatewayService(Protocol):
    """Another service that a gateway offers beside search and health."""

    def add_to(self, server: grpc.aio.Server) -> str:
        """Add its handlers to a server that is not started yet; returns its full name."""


class Gateway:
    """One gRPC server that follows a routing table. Use within one event loop.

    `start`, `ready`, and in the end `stop`.
    """

    def __init__(
        self,
        source: TableSource,
        config: GatewayConfig,
        connect: Connect,
        *,
        limits: Limits = DEFAULT_LIMITS,
        observer: Observer | None = None,
        services: Sequence[GatewayService] = (),
        encoders: Encoders | None = None,
    ) -> None:
        """
        Args:
            source: where the routing table comes from.
            connect: makes the transport to a shard server, such as `ShardChannel`.
            services: what it offers besides, such as the admin service.
            encoders: makes and shares the encoders of generations.

        Raises:
            InvalidInput: a setting is not possible; or a certificate, its key, or the file of API
                keys is not usable.
        """
        config.check()
        observer = observer or Observer()
        self.gateway_id = f"gateway-{secrets.token_hex(4)}"
        self.address = ""
        self._config = config
        self._draining = False
        self._cpu = _CpuShare()
        self._executor = ThreadPoolExecutor(config.encoder_threads, thread_name_prefix="encode")
        self._vectors: ByteLru[Key, F32] = ByteLru(config.embedding_cache_bytes)
        equipment = Equipment(
            traced(connect),
            self._executor,
            _encode_queue(self._executor, config, observer),
            limits,
            config.tail,
            observer,
            encoders or Encoders(),
        )
        self._follower = TableFollower(source, equipment, self._completed, config.warm_timeout_s)
        self._following: asyncio.Task[None] | None = None
        self._credentials = None if config.tls is None else server_credentials(config.tls)
        self._servicer = SearchServicer(self._follower, config, limits, observer)
        self._server = grpc.aio.server(
            # Beyond `Admission`, which says which limit: for when even refusing takes too long.
            interceptors=[
                Intake(2 * config.max_concurrent, self._servicer.check_in_time),
                *gateway_interceptors(),
                guard_of(config),
            ],
            options=server_options(limits.max_message_bytes),
        )
        search_pb2_grpc.add_SearchServiceServicer_to_server(self._servicer, parsing(self._server))
        others = [service.add_to(self._server) for service in services]
        self._health = GatewayHealth(("", SERVICE, *others), self._reachable)
        names = (SERVICE, HEALTH, *others, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)

    async def start(self) -> str:
        """Listen, and follow the table. Health says NOT_SERVING until a generation is warm.

        Returns:
            HOST:PORT as a client names it.

        Raises:
            AddressInUse: the address is taken or not one of this machine's.
        """
        wanted = f"{self._config.host}:{self._config.port}"
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(wanted)
            else:
                port = self._server.add_secure_port(wanted, self._credentials)
        except RuntimeError as error:
            raise AddressInUse(
                f"cannot listen on {wanted}: it is in use, or not an address of this machine; "
                "choose another with --port (0 takes a free one) or --host"
            ) from error
        await self._health.add_to(self._server)
        await self._server.start()
        self._health.follow()
        self.address = f"{self._config.host}:{port}"
        self._following = asyncio.create_task(self._follower.follow())
        return self.address

    async def ready(self, timeout_s: float) -> None:
        """Wait until queries are answered.

        Raises:
            Unavailable: no generation was ready within `timeout_s`; says why.
        """
        await self._follower.ready(timeout_s)
        await self._health.update()

    def report(self) -> GatewayReport:
        """What it is doing."""
        return self._follower.report()

    def snapshot(self) -> GatewaySnapshot:
        """How it is now, for metrics."""
        report, current = self.report(), self._follower.current
        return GatewaySnapshot(
            in_flight=report.in_flight,
            queue_delay_ms=report.queue_delay_ms,
            table_version=report.version,
            replicas={} if current is None else current.fan_out.replica_states(),
            cache_bytes={
                "embedding": self._vectors.bytes,
                "answer": self._servicer.answer_cache_bytes,
            },
        )

    async def drain(self) -> None:
        """Say NOT_SERVING and that it is about to end, and go on answering: who sends queries has
        time to notice."""
        self._draining = True
        await self._health.drain()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Say NOT_SERVING, refuse new calls, finish those under way for up to `grace_s`."""
        try:
            async with asyncio.timeout(grace_s + STOP_MARGIN_S):
                await self.drain()
                await self._health.stop()
                await self._server.stop(grace_s)
        except TimeoutError:
            waited_s = grace_s + STOP_MARGIN_S
            log.warning("the gRPC server at %s did not end in %.1f s", self.address, waited_s)
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        await self._follower.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _reachable(self) -> dict[str, bool]:
        """Whether each shard of the live generation can be reached; empty while there is none."""
        current = self._follower.current
        return {} if current is None else current.fan_out.reachable()

    def _completed(self, report: GatewayReport) -> GatewayReport:
        return replace(
            report,
            gateway_id=self.gateway_id,
            address=self.address,
            queue_delay_ms=self._servicer.queue_delay_ms,
            cpu=self._cpu.of_late(),
            queries=self._servicer.queries,
            draining=self._draining,
        )


def _encode_queue(
    executor: ThreadPoolExecutor, config: GatewayConfig, observer: Observer
) -> EncodeQueue:
    return EncodeQueue(
        executor,
        threads=config.encoder_threads,
        max_batch=config.encode_batch,
        cache=ByteLru(config.embedding_cache_bytes),
        observer=observer,
    )


class _CpuShare:
    """The share of one CPU that this process used between one look and the next."""

    LEAST_S = 0.5  # a look sooner than that gives what the one before gave

    def __init__(self) -> None:
        self._wall, self._cpu, self._share = time.monotonic(), time.process_time(), 0.0

    def of_late(self) -> float:
        wall, cpu = time.monotonic(), time.process_time()
        if wall - self._wall >= self.LEAST_S:
            self._share = (cpu - self._cpu) / (wall - self._wall)
            self._wall, self._cpu = wall, cpu
        return self._share
