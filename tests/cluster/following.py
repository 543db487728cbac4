"""A gateway whose routing table the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from local_cluster import FixedTable, LoopThread

from cluster.gateway import Gateway, GatewayConfig
from cluster.gateway_encoder import Encoders, LazyEncoder
from cluster.observer import Observer
from cluster.topology import GatewayReport, RoutingTable, ServedGeneration
from cluster.wire.shard_channel import ShardChannel
from colbert_core.errors import Unavailable


class FlakyTable(FixedTable):
    """A controller that can be away."""

    away = False
    asked_while_away = 0

    async def watch(self, report: GatewayReport) -> RoutingTable:
        if self.away:
            self.asked_while_away += 1
            raise Unavailable("the controller is restarting")
        return await super().watch(report)


class Following:
    """A gateway whose table the test sets."""

    def __init__(
        self,
        live: ServedGeneration,
        encoder: LazyEncoder | None = None,
        config: GatewayConfig | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.loop = LoopThread()
        self.source = FlakyTable(RoutingTable(1, live))
        encoders = None if encoder is None else Encoders(lambda _: encoder)

        async def start() -> str:
            self.gateway = Gateway(
                self.source,
                config or GatewayConfig(port=0),
                ShardChannel,
                observer=observer,
                encoders=encoders,
            )
            address = await self.gateway.start()
            await self.gateway.ready(60.0)
            return address

        self.address = self.loop.run(start())

    def set(self, live: ServedGeneration, warming: ServedGeneration | None = None) -> None:
        async def change() -> None:
            self.source.set(RoutingTable(self.source.table.version + 1, live, warming))

        self.loop.run(change())

    def report(self) -> GatewayReport:
        async def report() -> GatewayReport:
            return self.gateway.report()

        return self.loop.run(report())

    def wait(self, until: Callable[[GatewayReport], bool]) -> None:
        async def wait() -> None:
            while not until(self.gateway.report()):
                await asyncio.sleep(0.01)

        self.loop.run(wait())

    def __enter__(self) -> Following:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.run(self.gateway.stop(1.0))
        self.loop.close()
