"""A serving cluster without Ray: real gRPC shard servers and a real gateway, in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cluster.fanout import FanOut, ShardRoute
from cluster.gateway import Gateway, GatewayConfig
from cluster.gateway_encoder import LazyEncoder, encoder_of
from cluster.gateway_limits import DEFAULT_LIMITS
from cluster.gateway_search import SearchPipeline
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import Limits
from colbert_core.index import open_generation
from workers.shard_server import HeldShard, ShardServer

T = TypeVar("T")
DIM = 32
TIMEOUT_S = 60.0


class LoopThread:
    """An event loop in a thread, for what is async in tests that are not."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(TIMEOUT_S)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(TIMEOUT_S)
        self._loop.close()


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
    ) -> None:
        self.generation = open_generation(index, shards=())
        manifest = self.generation.manifest
        self.servers: list[list[ShardServer]] = []
        for shard in manifest.shards:
            held = HeldShard.open(index, manifest.generation, shard.id)
            self.servers.append([ShardServer(held, threads=2) for _ in range(replicas)])
            for server in self.servers[-1]:
                server.start()
        self.loop = LoopThread()
        self._executor = ThreadPoolExecutor(2)
        self._encoder = encoder or encoder_of(self.generation)
        try:
            self.loop.run(self._start(limits, gateway or GatewayConfig(port=0)))
        except BaseException:
            self.close()
            raise

    async def _start(self, limits: Limits, config: GatewayConfig) -> None:
        manifest = self.generation.manifest
        self.routes = []
        for shard, servers in zip(manifest.shards, self.servers, strict=True):
            route = ShardRoute(shard.id, shard.live_passages, shard.live_tokens)
            route.replace([ShardChannel(server.address, shard.id) for server in servers])
            self.routes.append(route)
        self.pipeline = SearchPipeline(
            manifest.generation,
            self.generation.codec,
            self._encoder,
            FanOut(self.routes),
            limits,
            self._executor,
            manifest.presets,
            manifest.pool_factor > 1,
            manifest.metadata_fields,
        )
        self.gateway = Gateway(self.pipeline, manifest, config)
        self.address = await self.gateway.start()
        await self.gateway.set_ready()

    def close(self) -> None:
        self.loop.run(self.gateway.stop(1.0))
        self.loop.close()
        self._executor.shutdown()
        for server in (server for servers in self.servers for server in servers):
            server.stop(0.0)

    def __enter__(self) -> LocalCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def unit_vectors(rng: np.random.Generator, rows: int, dim: int = DIM) -> Any:
    """float32 [rows, dim] of length 1."""
    vectors = rng.standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
