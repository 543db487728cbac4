"""A serving cluster without Ray: real gRPC shard servers and a real gateway, in this process."""

from __future__ import annotations

import asyncio
import io
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cluster.fan_out import Connect, ShardRoute
from cluster.gateway import Gateway, GatewayConfig
from cluster.gateway_encoder import Encoders, LazyEncoder
from cluster.gateway_limits import DEFAULT_LIMITS
from cluster.gateway_search import SearchPipeline
from cluster.observer import Observer
from cluster.topology import GatewayReport, ReplicaPlace, RoutingTable, ServedGeneration, ShardPlace
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import Limits
from colbert_core.index import Manifest, open_generation
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

T = TypeVar("T")
DIM = 32
READY_S = 90.0
TIMEOUT_S = 120.0  # more, so that a gateway that does not become ready says why


class LoopThread:
    """An event loop in a thread, for what is async in tests that are not."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What it gives; if that takes too long, an error that says what each task waited for."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(TIMEOUT_S)
        except TimeoutError as error:
            if future.done():
                raise
            told = io.StringIO()
            for task in asyncio.all_tasks(self._loop):
                task.print_stack(file=told)
            raise TimeoutError(f"waited {TIMEOUT_S:.0f} s: {told.getvalue()}") from error

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


class FixedTable:
    """A routing table that changes only when told."""

    def __init__(self, table: RoutingTable) -> None:
        self._table = table
        self._changed = asyncio.Event()
        self.reports: deque[GatewayReport] = deque(maxlen=1000)

    @property
    def table(self) -> RoutingTable:
        return self._table

    def set(self, table: RoutingTable) -> None:
        """Hand out another table. Call on the event loop of whoever watches."""
        self._table = table
        self._changed.set()
        self._changed = asyncio.Event()

    async def watch(self, report: GatewayReport) -> RoutingTable:
        self.reports.append(report)
        if report.version >= self._table.version:
            try:
                async with asyncio.timeout(0.25):
                    await self._changed.wait()
            except TimeoutError:
                pass
        return self._table


class LocalCluster:
    """One gateway over `replicas` shard servers per shard of an index."""

    def __init__(
        self,
        index: Path,
        *,
        replicas: int = 1,
        limits: Limits = DEFAULT_LIMITS,
        encoder: LazyEncoder | None = None,
        gateway: GatewayConfig | None = None,
        observer: Observer | None = None,
        connect: Connect = ShardChannel,
    ) -> None:
        self.index = index
        self.generation = open_generation(index, shards=())
        manifest = self.generation.manifest
        self.servers: list[list[ShardServer]] = []
        for shard in manifest.shards:
            held = HeldShard.open(index, manifest.generation, shard.id)
            self.servers.append([ShardServer(held, threads=2) for _ in range(replicas)])
            for server in self.servers[-1]:
                server.start()
        self.loop = LoopThread()
        self._encoders = None if encoder is None else Encoders(lambda _: encoder)
        self._connect = connect
        self._observer = observer
        try:
            self.loop.run(self._start(limits, gateway or GatewayConfig(port=0)))
        except BaseException:
            self.close()
            raise

    async def _start(self, limits: Limits, config: GatewayConfig) -> None:
        manifest = self.generation.manifest
        places = [[server.address for server in servers] for servers in self.servers]
        self.source = FixedTable(RoutingTable(1, served(self.index, manifest, places)))
        self.gateway = Gateway(
            self.source,
            config,
            self._connect,
            limits=limits,
            observer=self._observer,
            encoders=self._encoders,
        )
        self.address = await self.gateway.start()
        await self.gateway.ready(READY_S)

    @property
    def problems(self) -> list[str]:
        """What the gateway has reported since it began."""
        return [report.problem for report in self.source.reports if report.problem]

    @property
    def routes(self) -> tuple[ShardRoute, ...]:
        """Those of the live generation."""
        return self.pipeline.fan_out.routes

    @property
    def pipeline(self) -> SearchPipeline:
        """That of the live generation."""
        current = self.gateway._follower.current
        assert current is not None
        return current.pipeline

    def route_to(self, shard: int, *addresses: str) -> None:
        """Make the servers at these addresses the only ones of a shard, as a controller does."""

        async def change() -> None:
            table = self.source.table
            shards = list(table.live.shards)
            shards[shard] = replace(shards[shard], replicas=replicas_at(*addresses))
            live = replace(table.live, shards=tuple(shards))
            self.source.set(replace(table, version=table.version + 1, live=live))

        self.loop.run(change())
        self.wait(lambda: self.gateway.report().version == self.source.table.version)

    def wait(self, until: Callable[[], bool]) -> None:
        """Wait for something that is seen on the gateway's loop."""

        async def wait() -> None:
            while not until():
                await asyncio.sleep(0.01)

        self.loop.run(wait())

    def close(self) -> None:
        if hasattr(self, "gateway"):
            self.loop.run(self.gateway.stop(1.0))
        self.loop.close()
        for server in (server for servers in self.servers for server in servers):
            server.stop(0.0)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def replicas_at(*addresses: str) -> tuple[ReplicaPlace, ...]:
    return tuple(ReplicaPlace(address, address) for address in addresses)


def served(index: Path, manifest: Manifest, addresses: Sequence[Sequence[str]]) -> ServedGeneration:
    """A generation with the addresses of each shard's servers."""
    shards = tuple(
        ShardPlace(shard.id, shard.live_passages, shard.live_tokens, replicas_at(*places))
        for shard, places in zip(manifest.shards, addresses, strict=True)
    )
    return ServedGeneration(str(index), manifest.generation, shards)


def unit_vectors(rng: np.random.Generator, rows: int, dim: int = DIM) -> Any:
    """float32 [rows, dim] of length 1."""
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
