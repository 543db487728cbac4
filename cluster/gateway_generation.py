"""One generation as a gateway holds it: opened, connected, warmed, pinned by queries, let go.

A query pins the generation that is live when it begins, and is answered from it alone. What it is
searched with never changes; only where its replicas are does, in place (`FanOut.update`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from cluster.fan_out import Connect, FanOut, TailPolicy
from cluster.gateway_encoder import Encoders
from cluster.gateway_encoding import EncodeQueue
from cluster.gateway_limits import DEFAULT_LIMITS
from cluster.gateway_search import SearchPipeline
from cluster.observer import Observer
from cluster.topology import ServedGeneration
from cluster.version import own_version
from cluster.wire.types import IndexInfo, Limits, SearchCall, ServedShard
from colbert_core.errors import (
    DeadlineExceeded,
    IndexMissing,
    TartanError,
    Unavailable,
)
from colbert_core.index import Generation, open_generation, verify_checksums
from colbert_core.search import deriving

RETRY_S = 0.1
PROBE_TIMEOUT_S = 5.0

Key = tuple[str, str]
"""(index, generation)"""


def key_of(served: ServedGeneration) -> Key:
    """By what a gateway knows a generation."""
    return served.index, served.generation


@dataclass(frozen=True)
class Equipment:
    """What all generations of a gateway are opened with.

    Attributes:
        executor: threads for what blocks: the model, and the centroid table.
        encoding: the queue of texts, over the same threads.
    """

    connect: Connect
    executor: Executor
    encoding: EncodeQueue
    limits: Limits = DEFAULT_LIMITS
    tail: TailPolicy = field(default_factory=TailPolicy)
    observer: Observer = field(default_factory=Observer)
    encoders: Encoders = field(default_factory=Encoders)


def open_global(served: ServedGeneration) -> Generation:
    """What a gateway needs of an index: all but its shards. Blocks while files are read.

    Raises:
        IndexMissing, IndexCorrupt: it cannot be opened, or has other shards than the table says.
        StorageError, Unavailable: the bucket refuses, or does not answer.
    """
    opened = open_generation(served.index, shards=(), generation=served.generation)
    verify_checksums(opened.path, opened.manifest, under="global/")
    stored = [shard.id for shard in opened.manifest.shards]
    named = [shard.shard_id for shard in served.shards]
    if stored != named:
        raise IndexMissing(
            f"generation {served.generation} of {served.index} has the shards {', '.join(stored)}, "
            f"and the routing table names {', '.join(named)}: is it another index?"
        )
    return opened


class OpenGeneration:
    """Belongs to one event loop."""

    def __init__(self, served: ServedGeneration, opened: Generation, equipment: Equipment) -> None:
        manifest = opened.manifest
        self.key = key_of(served)
        self.warm = False
        self.in_flight = 0
        self.opened = opened  # kept: what is served is neither collected nor evicted
        self._idle = asyncio.Event()
        self._idle.set()
        self.fan_out = FanOut(
            served, equipment.connect, policy=equipment.tail, observer=equipment.observer
        )
        self._prober = asyncio.create_task(self.fan_out.probe())
        self.pipeline = SearchPipeline(
            generation=manifest.generation,
            codec=opened.codec,
            encoder=equipment.encoders.of(opened),
            encoding=equipment.encoding,
            fan_out=self.fan_out,
            limits=equipment.limits,
            executor=equipment.executor,
            derive=deriving(manifest.presets),
            pooled=manifest.pool_factor > 1,
            fields=manifest.metadata_fields,
        )

    @property
    def generation(self) -> str:
        """Its id."""
        return self.pipeline.generation

    @contextmanager
    def pinned(self) -> Iterator[SearchPipeline]:
        """Keep it for as long as the block runs."""
        self.in_flight += 1
        self._idle.clear()
        try:
            yield self.pipeline
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    def info(self) -> IndexInfo:
        """What is being served."""
        manifest, pipeline = self.opened.manifest, self.pipeline
        return IndexInfo(
            generation=manifest.generation,
            passages=manifest.passages,
            tokens=manifest.tokens,
            dim=pipeline.codec.dim,
            centroids=pipeline.codec.centroid_count,
            codec=pipeline.codec.name,
            bits=pipeline.codec.bits,
            model=pipeline.encoder.source,
            shards=tuple(
                ServedShard(route.shard_id, route.passages, route.tokens, len(route.replicas))
                for route in self.fan_out.routes
            ),
            limits=pipeline.limits,
            fields=pipeline.fields,
            server_time=time.time(),
            version=own_version(),
        )

    async def warm_up(self, timeout_s: float) -> None:
        """Check every replica, and answer one query through every stage.

        Raises:
            IndexMissing: a replica holds something else than the table says.
            ModelError, ModelMismatch: the index's model cannot be loaded.
            Unavailable: shards did not answer within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                await self._check_replicas()
                await self.pipeline.search(self._warm_up_call(), deadline)
            except (Unavailable, DeadlineExceeded) as error:
                if time.monotonic() + RETRY_S >= deadline:
                    raise Unavailable(
                        f"waited {timeout_s:.0f} s for the warm-up query: {error}; a model on a "
                        "slow disk needs a longer time to start"
                    ) from error
                await asyncio.sleep(RETRY_S)
            else:
                self.warm = True
                return

    def _warm_up_call(self) -> SearchCall:
        if self.pipeline.encoder.available:
            return SearchCall(k=1, text="warm-up", explain=True)
        vector_LD = np.full((1, self.pipeline.codec.dim), 0.1, np.float32)
        return SearchCall(k=1, query_LD=vector_LD, explain=True)

    async def _check_replicas(self) -> None:
        """Raise IndexMissing where a replica holds something else; who is away may come later."""
        transports = [
            replica.transport for route in self.fan_out.routes for replica in route.replicas
        ]
        probes = [one.probe(self.generation, PROBE_TIMEOUT_S) for one in transports]
        for result in await asyncio.gather(*probes, return_exceptions=True):
            if isinstance(result, Unavailable | DeadlineExceeded):
                continue
            if isinstance(result, BaseException):
                raise result

    async def retire(self, patience_s: float) -> None:
        """Wait until the last query pinned to it has ended, and let go of everything."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        """Let go of everything now."""
        self._prober.cancel()
        await asyncio.gather(self._prober, return_exceptions=True)
        await self.fan_out.close()


def problem_text(error: BaseException) -> str:
    """An error of opening or warming up, for the report."""
    if isinstance(error, TartanError):
        return f"{type(error).__name__}: {error}"
    return f"internal error: {type(error).__name__}: {error}"
