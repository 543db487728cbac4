"""Gateways that follow a controller: the first in the process of `tartan serve`, further ones as
Ray actors, each a process of its own."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray

from cluster.controller.link import ControllerAdmin, ControllerLink, FollowedTable
from cluster.controller.state import GatewaySlot
from cluster.gateway import Gateway, GatewayConfig
from cluster.gateway_admin import AdminServicer
from cluster.gateway_limits import DEFAULT_LIMITS
from cluster.security.exposure import is_loopback
from cluster.telemetry.process import GatewayTelemetry, TelemetryConfig
from cluster.wire.inner_tls import InnerTls
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import Limits
from colbert_core.errors import TartanError, Unavailable
from workers.heap import freeze_heap
from workers.process_meter import ProcessMeter, ProcessState

FREEZE_WITHIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """What every gateway of a service is made with.

    Attributes:
        config: of the first; the others listen on its port plus their number, or on the same port
            of another machine.
        home: the node of the first.
        token: what shard servers ask for.
        tls: the gateways' certificates for shard servers; in clear text if None.
        telemetry: what they tell about themselves, and where.
        cpus: what Ray reserves for each further one.
        notice_s: how long one says NOT_SERVING before it refuses, for load balancers to notice.
    """

    config: GatewayConfig
    home: str = ""
    limits: Limits = DEFAULT_LIMITS
    token: str | None = field(default=None, repr=False)
    tls: InnerTls | None = None
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    cpus: float = 0.0
    notice_s: float = 1.0


def of_number(settings: GatewaySettings, number: int, *, at_home: bool) -> GatewaySettings:
    """The settings of a further gateway: its ports follow those of the first, where that is. On
    loopback they always do: several Ray nodes may be one machine."""
    config, telemetry = settings.config, settings.telemetry
    if not at_home and not is_loopback(config.host):
        return settings
    if config.port:
        config = replace(config, port=config.port + number)
    if telemetry.metrics is not None and telemetry.metrics.port:
        metrics = replace(telemetry.metrics, port=telemetry.metrics.port + number)
        telemetry = replace(telemetry, metrics=metrics)
    return replace(settings, config=config, telemetry=telemetry)


class FollowingGateway:
    """A gateway that follows the controller of a service, and what it tells about itself."""

    def __init__(self, service: str, settings: GatewaySettings) -> None:
        """
        Raises:
            AddressInUse: metrics cannot be shown where they should.
            InvalidInput: a certificate, its key, or the file of API keys is not usable.
        """
        link = ControllerLink(service)
        self._settings = settings
        self._telemetry = GatewayTelemetry(settings.telemetry)
        self._freezing: asyncio.Task[None] | None = None
        self._gateway = Gateway(
            FollowedTable(link),
            settings.config,
            partial(ShardChannel, token=settings.token, tls=settings.tls),
            limits=settings.limits,
            observer=self._telemetry,
            services=[AdminServicer(ControllerAdmin(link))],
        )

    @property
    def address(self) -> str:
        """HOST:PORT, once it is started."""
        return self._gateway.address

    async def start(self) -> str:
        """See Gateway."""
        address = await self._gateway.start()
        tls = self._settings.config.tls
        self._telemetry.watch(self._gateway.snapshot, None if tls is None else tls.cert)
        self._freezing = asyncio.create_task(self._freeze_when_ready())
        return address

    async def ready(self, timeout_s: float) -> None:
        """See Gateway."""
        await self._gateway.ready(timeout_s)

    async def _freeze_when_ready(self) -> None:
        """What answering queries needs is imported with the first generation."""
        with suppress(Unavailable):  # who waits for the gateway itself is told why
            await self._gateway.ready(FREEZE_WITHIN_S)
            freeze_heap()

    async def stop(self, grace_s: float) -> None:
        """Say that it will end, wait for that to be noticed, finish what is under way, and end."""
        if self._freezing is not None:
            self._freezing.cancel()
        await self._gateway.drain()
        await asyncio.sleep(self._settings.notice_s)
        await self._gateway.stop(grace_s)
        self._telemetry.stop()


class GatewayActor:
    """A further gateway, as a Ray actor. It is started by its first `probe`."""

    def __init__(self, service: str, settings: GatewaySettings, number: int) -> None:
        """Nothing that can fail: an error here would reach the caller without its class."""
        self._service = service
        self._settings = settings
        self._number = number
        self._meter = ProcessMeter()
        self._gateway: FollowingGateway | None = None
        self._starting = asyncio.Lock()

    async def probe(self) -> ProcessState:
        """Where it answers, and how its process does.

        Raises:
            AddressInUse: there is something else where it should listen.
        """
        async with self._starting:
            if self._gateway is None:
                at_home = ray.get_runtime_context().get_node_id() == self._settings.home
                settings = of_number(self._settings, self._number, at_home=at_home)
                gateway = FollowingGateway(self._service, settings)
                try:
                    await gateway.start()
                except TartanError:
                    await gateway.stop(0.0)
                    raise
                self._gateway = gateway
        return self._meter.read(self._gateway.address)

    async def stop(self, grace_s: float) -> None:
        """See FollowingGateway."""
        if self._gateway is not None:
            await self._gateway.stop(grace_s)


def make_gateway_actor(
    service: str, settings: GatewaySettings, slot: GatewaySlot, naming: dict[str, Any]
) -> Any:
    """The actor of a slot, made or found."""
    return (
        ray.remote(GatewayActor)
        .options(**naming, num_cpus=settings.cpus, scheduling_strategy="SPREAD")
        .remote(service, settings, slot.number)
    )
