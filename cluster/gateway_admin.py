"""The admin service of a gateway: it checks, and passes on to the controller.

A gateway decides nothing here: what is asked for is done by whoever stands behind `AdminBackend`,
the controller in service, a fake in tests. Who may call it is the guard's business
(security/guard.py): the role `admin`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from cluster.wire import admin
from cluster.wire.admin import Drained, RolloutCall, RolloutPhase, RolloutState, ScaleChange
from cluster.wire.handlers import AsyncContext, abort_async, answering_async
from cluster.wire.requests import checked, parsing
from cluster.wire.tartan.v1 import admin_pb2, admin_pb2_grpc
from colbert_core.errors import InvalidInput, RolledBack, Unavailable

SERVICE = "tartan.v1.AdminService"
PROGRESS_INTERVAL_S = 0.25
AWAY_S = 60.0  # that a controller may be away during a rollout before its caller is told


class AdminBackend(Protocol):
    """What the service is about. Errors are those of colbert_core/errors.py."""

    async def list_shards(self) -> admin.Topology:
        """The topology now."""

    async def stats(self) -> admin.Stats:
        """Gateways, load, versions."""

    async def roll_out(self, call: RolloutCall) -> RolloutState:
        """Begin a rollout."""

    async def rollout(self, rollout_id: str) -> RolloutState:
        """How it stands with a rollout."""

    async def scale(self, change: ScaleChange) -> admin.ScaleState:
        """Change how many there are, or the bounds."""

    async def drain(self, kind: str, name: str) -> Drained:
        """Take a "replica", a "gateway" or a "node" out of service."""


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """The handlers: convert, pass on, convert."""

    def __init__(self, backend: AdminBackend) -> None:
        self._backend = backend

    def add_to(self, server: grpc.aio.Server) -> str:
        """Offer the service on a server that is not started yet; returns its name."""
        admin_pb2_grpc.add_AdminServiceServicer_to_server(self, parsing(server))
        return SERVICE

    @answering_async
    async def ListShards(  # noqa: N802
        self,
        request: admin_pb2.ListShardsRequest,  # noqa: ARG002
        context: AsyncContext,  # noqa: ARG002
    ) -> admin_pb2.ListShardsResponse:
        return admin.to_proto(await self._backend.list_shards(), admin_pb2.ListShardsResponse())

    @answering_async
    async def GetStats(  # noqa: N802
        self,
        request: admin_pb2.GetStatsRequest,  # noqa: ARG002
        context: AsyncContext,  # noqa: ARG002
    ) -> admin_pb2.GetStatsResponse:
        return admin.to_proto(await self._backend.stats(), admin_pb2.GetStatsResponse())

    @answering_async
    async def Reload(  # noqa: N802
        self,
        request: admin_pb2.ReloadRequest,  # noqa: ARG002
        context: AsyncContext,  # noqa: ARG002
    ) -> admin_pb2.ReloadResponse:
        stats = await self._backend.stats()
        if not stats.behind_disk:
            return admin_pb2.ReloadResponse(generation=stats.live_generation)
        state = await self._backend.roll_out(RolloutCall())
        return admin_pb2.ReloadResponse(rollout_id=state.rollout_id, generation=state.generation)

    async def Rollout(  # noqa: N802
        self, request: admin_pb2.RolloutRequest, context: AsyncContext
    ) -> AsyncIterator[admin_pb2.RolloutResponse]:
        try:
            call = admin.from_proto(RolloutCall, checked(request))
            async for state in _until_over(self._backend, await self._backend.roll_out(call)):
                message = admin_pb2.RolloutState()
                yield admin_pb2.RolloutResponse(rollout=admin.to_proto(state, message))
        except Exception as error:
            await abort_async(context, error)

    @answering_async
    async def Scale(  # noqa: N802
        self,
        request: admin_pb2.ScaleRequest,
        context: AsyncContext,  # noqa: ARG002
    ) -> admin_pb2.ScaleResponse:
        scale = await self._backend.scale(admin.from_proto(ScaleChange, request))
        return admin_pb2.ScaleResponse(scale=admin.to_proto(scale, admin_pb2.ScaleState()))

    @answering_async
    async def Drain(  # noqa: N802
        self,
        request: admin_pb2.DrainRequest,
        context: AsyncContext,  # noqa: ARG002
    ) -> admin_pb2.DrainResponse:
        target: Any = request.WhichOneof("target")
        name = getattr(request, target) if target else ""
        if not name:
            raise InvalidInput("drain what? Give a replica_id, a gateway_id or a node_id")
        drained = await self._backend.drain(target.removesuffix("_id"), name)
        return admin.to_proto(drained, admin_pb2.DrainResponse())


async def _until_over(backend: AdminBackend, state: RolloutState) -> AsyncIterator[RolloutState]:
    """Every change of a rollout, the last one included, also over restarts of the controller.

    Raises:
        RolledBack: it was.
        Unavailable: the controller is away for too long; the rollout goes on when it is back.
    """
    yield state
    heard_at = time.monotonic()
    while not state.phase.over:
        await asyncio.sleep(PROGRESS_INTERVAL_S)
        try:
            now = await backend.rollout(state.rollout_id)
        except Unavailable:
            if time.monotonic() - heard_at > AWAY_S:
                raise
            continue
        heard_at = time.monotonic()
        if (now.phase, now.message) != (state.phase, state.message):
            yield now
        state = now
    if state.phase is RolloutPhase.ROLLED_BACK:
        raise RolledBack(
            f"generation {state.generation} was rolled back: {state.reason}; "
            f"{state.from_generation or 'nothing'} is served as before"
        )
