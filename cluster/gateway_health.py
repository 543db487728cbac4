"""The gateway's health: SERVING while every shard of the live generation can be reached.

A search needs every shard, so one that is away is what a load balancer must know of; and no
generation is live here before it has answered a warm-up query. What is looked at is the connection
to each shard server that may be asked, four times a second: gRPC notices at once that a process
has ended, and within 20 s that a machine has vanished or a process hangs (channels.py). A server
that is merely busy stays connected. Nothing is asked of the shards for it.

Each shard has a name of its own, too, `tartan.shard.v1.ShardService/SHARD`, so that a probe or an
operator sees which one is away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

INTERVAL_S = 0.25
SHARD_SERVICE = "tartan.shard.v1.ShardService"


class GatewayHealth:
    """The standard health service of one gateway. Belongs to one event loop."""

    def __init__(
        self, services: Sequence[str], reachable: Callable[[], Mapping[str, bool]]
    ) -> None:
        """NOT_SERVING until `follow`.

        Args:
            services: names that all have the same health; "" stands for the whole server.
            reachable: looks which shards can be reached; none while nothing is served.
        """
        self._services = services
        self._reachable = reachable
        self._shards: set[str] = set()
        self._draining = False
        self._servicer = HealthServicer()
        self._following: asyncio.Task[None] | None = None

    async def add_to(self, server: grpc.aio.Server) -> None:
        """Offer the service on a server that is not started yet."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        await self._tell({})

    def follow(self) -> None:
        """Say how it is from now on."""
        self._following = asyncio.create_task(self._follow())

    async def update(self) -> None:
        """Say how it is now."""
        await self._tell(self._reachable())

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        self._draining = True
        await self.update()

    async def stop(self) -> None:
        """End: NOT_SERVING, and whoever watches is told so."""
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
        await self._servicer.enter_graceful_shutdown()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.update()

    async def _tell(self, reachable: Mapping[str, bool]) -> None:
        """Set every name: of the shards each its own, and the others' by all of them."""
        for shard in self._shards - set(reachable):  # of a generation that is live no more
            await self._set(f"{SHARD_SERVICE}/{shard}", serving=False)
        self._shards = set(reachable)
        for shard, is_reachable in reachable.items():
            await self._set(f"{SHARD_SERVICE}/{shard}", serving=is_reachable)
        serving = bool(reachable) and all(reachable.values()) and not self._draining
        for service in self._services:
            await self._set(service, serving=serving)

    async def _set(self, service: str, *, serving: bool) -> None:
        known = health_pb2.HealthCheckResponse
        await self._servicer.set(service, known.SERVING if serving else known.NOT_SERVING)
