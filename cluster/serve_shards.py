"""The shard servers of one `tartan serve`: Ray actors, watched, and found again after a restart.

Ray restarts an actor that died (`max_restarts=-1`), with a new gRPC port. The watcher asks each
actor for its address once a second; the call starts the server in a restarted actor, and a new
address comes into the routing table that gateways follow. Queries never wait for any of this: until
the new address is known they are told UNAVAILABLE, with the shard's name.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from cluster.gateway_follow import FixedTable
from cluster.topology import ReplicaPlace, RoutingTable, ServedGeneration, ShardPlace
from cluster.wire.inner_tls import InnerTls
from colbert_core.errors import TartanError, Unavailable
from colbert_core.index import Manifest, ShardEntry
from colbert_core.storage import is_uri
from workers.shard_server import ShardServerActor

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 1.0
ASK_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What to run.

    Attributes:
        index: path or URI of the index, readable under this name on every Ray node.
        host: what shard servers listen on; "" means each node's own address.
        cpus: CPUs that Ray reserves for each shard server.
        device: where shards are searched; on "cuda", shard servers share the GPUs evenly.
        token: what shard servers ask their callers for.
        tls: certificates of shard servers, for gateways alone; in clear text if None.
    """

    index: str
    manifest: Manifest
    replicas: int
    host: str
    cpus: float
    device: str = "cpu"
    token: str | None = field(default=None, repr=False)
    tls: InnerTls | None = None


class _Slot:
    """One replica of one shard: its actor now, and where it answers; "" before it does."""

    def __init__(self, shard: ShardEntry, number: int) -> None:
        self.shard = shard
        self.number = number
        self.actor: Any = None
        self.address = ""

    @property
    def name(self) -> str:
        return f"shard {self.shard.id}, replica {self.number}"

    @property
    def place(self) -> ReplicaPlace:
        return ReplicaPlace(f"{self.shard.id}.{self.number}", self.address)


class ShardFleet:
    """All shard servers of one generation. Belongs to one event loop."""

    def __init__(self, plan: FleetPlan) -> None:
        self._plan = plan
        self._watchers: list[asyncio.Task[None]] = []
        self._gpus = 0.0  # that Ray reserves for each shard server
        self._slots = [
            _Slot(shard, number)
            for shard in plan.manifest.shards
            for number in range(plan.replicas)
        ]
        self.source = FixedTable(self._table(1))

    async def start(self, timeout_s: float) -> None:
        """Start every shard server, wait until each answers, and begin to watch them.

        Raises:
            IndexMissing, IndexCorrupt: a shard cannot be opened.
            InvalidInput: a GPU that Ray has cannot be searched on.
            Unavailable: shard servers did not come up in time; names which. Or Ray has no GPU.
        """
        if self._plan.device == "cuda":
            self._gpus = gpu_share(len(self._slots), ray.cluster_resources().get("GPU", 0))
        for slot in self._slots:
            slot.actor = self._new_actor(slot)
        waiting = {
            asyncio.create_task(self._refresh(slot, timeout_s)): slot for slot in self._slots
        }
        done, late = await asyncio.wait(
            waiting, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in late:
            task.cancel()
        for task in done:
            task.result()
        if late:
            names = "; ".join(waiting[task].name for task in late)
            raise Unavailable(
                f"waited {timeout_s:.0f} s for {len(late)} of {len(waiting)} shard servers "
                f"({names}): Ray has {_free()}; free or add resources, or start fewer replicas; "
                f"servers that {_opening(self._plan.index)} need a longer --start-timeout"
            )
        self._watchers = [asyncio.create_task(self._watch(slot)) for slot in self._slots]

    async def stop(self, grace_s: float) -> None:
        """Stop watching, let the servers finish for up to `grace_s`, and end them."""
        for watcher in self._watchers:
            watcher.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        actors = [slot.actor for slot in self._slots if slot.actor is not None]
        stopping = [asyncio.ensure_future(actor.stop.remote(grace_s)) for actor in actors]
        if stopping:
            await asyncio.wait(stopping, timeout=grace_s + 1.0)
        for task in stopping:
            if not task.done():
                task.cancel()
            elif not task.cancelled() and task.exception() is not None:
                log.info("a shard server was gone before it was stopped: %s", task.exception())
        for actor in actors:
            ray.kill(actor)

    def _new_actor(self, slot: _Slot) -> Any:
        actor_class = ray.remote(ShardServerActor)
        return actor_class.options(
            num_cpus=self._plan.cpus,
            num_gpus=self._gpus,
            max_restarts=-1,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        ).remote(
            self._plan.index,
            self._plan.manifest.generation,
            slot.shard.id,
            self._plan.host,
            device=self._plan.device,
            token=self._plan.token,
            tls=self._plan.tls,
        )

    async def _watch(self, slot: _Slot) -> None:
        healthy = True
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            try:
                await self._refresh(slot, ASK_TIMEOUT_S)
                if not healthy:
                    log.warning("%s answers again", slot.name)
                healthy = True
            except (TartanError, RayError, TimeoutError) as error:
                if healthy:
                    log.warning("%s does not answer: %s", slot.name, _first_line(error))
                healthy = False
                if isinstance(error, ActorDiedError):  # beyond Ray's own restarts
                    slot.actor = self._new_actor(slot)

    async def _refresh(self, slot: _Slot, timeout_s: float) -> None:
        """Ask the actor where it answers, and connect there if that is new."""
        try:
            async with asyncio.timeout(timeout_s):
                address = await slot.actor.address.remote()
        except RayTaskError as error:
            if isinstance(error.cause, TartanError):
                raise error.cause from None
            raise
        if slot.address == address:
            return
        if slot.address:
            log.warning("%s was restarted and now answers at %s", slot.name, address)
        slot.address = address
        self.source.set(self._table(self.source.table.version + 1))

    def _table(self, version: int) -> RoutingTable:
        manifest = self._plan.manifest
        shards = tuple(
            ShardPlace(
                shard.id,
                shard.live_passages,
                shard.live_tokens,
                tuple(one.place for one in self._slots if one.shard is shard and one.address),
            )
            for shard in manifest.shards
        )
        live = ServedGeneration(self._plan.index, manifest.generation, shards)
        return RoutingTable(version, live)


def gpu_share(servers: int, gpus: float) -> float:
    """GPUs that Ray is to reserve for each of so many servers: equal parts of a GPU, or one.

    Raises:
        Unavailable: there is none.
    """
    if gpus < 1:
        raise Unavailable(
            "device is 'cuda', and Ray has no GPU: run it where there is one, join such nodes to "
            "the cluster before serving, or serve with --device cpu"
        )
    together = math.ceil(servers / int(gpus))
    return math.floor(10_000 / together) / 10_000  # the finest that Ray divides


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _opening(index: str) -> str:
    return f"still fetch from {index}" if is_uri(index) else "still read their shard"


def _free() -> str:
    free = ray.available_resources()
    of = ray.cluster_resources()
    return ", ".join(
        f"{free.get(kind, 0):g} {kind}s free of {of[kind]:g}"
        for kind in ("CPU", "GPU")
        if kind in of
    )
