"""A controller over shard servers and gateways in this process: real gRPC and indexes, no Ray."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_cluster import unit_vectors

from cluster.autoscale import AutoscalePolicy
from cluster.client import AsyncClient, RetryPolicy
from cluster.controller.actor import Controller, ControllerConfig
from cluster.controller.gateways import GatewaySettings
from cluster.controller.servers import ServerPlan
from cluster.controller.state import Probe, Service
from cluster.controller.timing import Timing
from cluster.gateway import Gateway, GatewayConfig
from cluster.topology import GatewayReport, RoutingTable
from cluster.wire.admin import ReplicaPhase, RolloutCall, RolloutPhase, RolloutState, ScaleChange
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.status import to_problem
from colbert_core.api import Index
from colbert_core.errors import (
    AlreadyRunning,
    IndexMissing,
    InvalidInput,
    TartanError,
    Unavailable,
)
from colbert_core.index import open_generation
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

TIMEOUT_S = 30.0
TIMING = Timing(silent_s=1.0, hung_s=5.0, drain_s=10.0)


class MemoryStore:
    """What survives a controller, here."""

    def __init__(self) -> None:
        self.data: bytes | None = None

    def load(self) -> bytes | None:
        return self.data

    def save(self, data: bytes) -> None:
        self.data = data

    def clear(self) -> None:
        self.data = None


class LocalServers:
    """Shard servers in this process, in the place of Ray actors; they outlive a controller."""

    def __init__(self) -> None:
        self.probes: dict[str, Probe] = {}
        self.changed = asyncio.Event()
        self.running: dict[str, ShardServer] = {}
        self.held_back = False  # servers that are asked for do not come
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._pool = ThreadPoolExecutor(2)

    async def adopt(self, service: Service) -> None:
        self.follow(service)

    def follow(self, service: Service) -> None:
        wanted = {one.replica_id: one for one in service.replicas}
        for name in self._starting.keys() - wanted.keys():
            self._starting.pop(name).cancel()
            self.probes.pop(name, None)
            if server := self.running.pop(name, None):
                self._pool.submit(server.stop, 0.2)
        rollout = service.rollout
        specs = (service.live, None if rollout is None else rollout.target)
        indexes = {spec.generation: spec.index for spec in specs if spec is not None}
        for name in wanted.keys() - self._starting.keys():
            one = wanted[name]
            task = self._start(name, indexes[one.generation], one.generation, one.shard_id)
            self._starting[name] = asyncio.create_task(task)

    async def _start(self, name: str, index: str, generation: str, shard_id: str) -> None:
        while self.held_back:
            await asyncio.sleep(0.02)
        try:
            held = await asyncio.to_thread(HeldShard.open, index, generation, shard_id)
        except TartanError as error:
            problem = to_problem(error)
            self.probes[name] = Probe(error=problem.error, message=problem.message)
        else:
            self.running[name] = ShardServer(held, threads=1)
            self.running[name].start()
            self._answers(name)
        self.changed.set()

    def _answers(self, name: str) -> None:
        self.probes[name] = Probe(
            address=self.running[name].address, heard_at=time.time() + 1e6, node_id="here"
        )

    def kill(self, name: str) -> None:
        """A server ends, and comes back at another address."""
        old = self.running[name]
        old.stop(0.0)
        self.probes[name] = Probe(alive=False)
        self._starting.pop(name)
        self.changed.set()

    async def stop(self, grace_s: float) -> None:
        self.follow(Service(""))
        self._pool.shutdown(wait=True)


@dataclass
class Followed:
    """The controller as gateways see it; it may be away."""

    controller: Controller | None = None
    reports: list[GatewayReport] = field(default_factory=list)

    async def watch(self, report: GatewayReport) -> RoutingTable:
        if self.controller is None:
            raise Unavailable("it is away")
        self.reports.append(report)
        return await self.controller.watch(report)


class World:
    """A service: its controller, its servers, its gateways."""

    def __init__(self, index: Path, replicas: int = 1) -> None:
        self.index = index
        self.replicas = replicas
        self.store = MemoryStore()
        self.servers = LocalServers()
        self.source = Followed()
        self.gateways: list[Gateway] = []
        self.config = ControllerConfig(
            "service",
            ServerPlan("127.0.0.1", 0.0),
            GatewaySettings(GatewayConfig(port=0)),
            AutoscalePolicy(up_s=1.0, down_s=3.0),
            TIMING,
        )

    @property
    def controller(self) -> Controller:
        assert self.source.controller is not None
        return self.source.controller

    async def start(self, gateways: int = 2) -> None:
        await self.new_controller()
        await self.controller.scale(ScaleChange(replicas=self.replicas))
        await self.done(await self.controller.roll_out(RolloutCall(str(self.index))))
        for _ in range(gateways):
            gateway = Gateway(self.source, GatewayConfig(port=0), ShardChannel)
            await gateway.start()
            self.gateways.append(gateway)
        for gateway in self.gateways:
            await gateway.ready(TIMEOUT_S)

    async def new_controller(self) -> None:
        controller = Controller(self.config, self.store, self.servers)
        await controller.begin()
        self.source.controller = controller

    async def kill_controller(self) -> None:
        """It is gone, without a word; what it started goes on."""
        controller, self.source.controller = self.controller, None
        assert controller._loop is not None
        controller._loop.cancel()
        await asyncio.gather(controller._loop, return_exceptions=True)

    async def done(self, state: RolloutState) -> RolloutState:
        return await until(
            lambda: self.controller.rollout(state.rollout_id), lambda said: said.phase.over
        )

    async def reached(self, state: RolloutState, phase: RolloutPhase) -> RolloutState:
        return await until(
            lambda: self.controller.rollout(state.rollout_id),
            lambda said: said.phase is phase or said.phase.over,
        )

    async def stop(self) -> None:
        for gateway in self.gateways:
            await gateway.stop(0.2)
        await self.controller.stop(0.2)


async def until(ask: Callable[[], Awaitable[Any]], is_so: Callable[[Any], bool]) -> Any:
    """Ask until it is so."""
    end = time.monotonic() + TIMEOUT_S
    while not is_so(said := await ask()):
        assert time.monotonic() < end, said
        await asyncio.sleep(0.02)
    return said


def passage(rng: Any) -> Any:
    return unit_vectors(rng, 5)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Two generations, of two shards and of three; the second is live on disk."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("controller") / "ix"
    ids = [f"p{n}" for n in range(40)]
    index = Index.build(path, [passage(rng) for _ in ids], ids, shards=2, centroids=16)
    return index.add([passage(rng) for _ in ids[:20]], ids[:20], replace=True)


def generations(index: Index) -> tuple[str, str]:
    second = index.manifest.generation
    assert index.manifest.parent is not None
    return index.manifest.parent, second


def play(index: Index, scene: Callable[[World], Awaitable[None]], replicas: int = 1) -> None:
    """Run a scene in a world of its own."""

    async def run() -> None:
        world = World(index.generation.path, replicas)
        await world.start()
        try:
            await scene(world)
        finally:
            await world.stop()

    asyncio.run(run())


def truth(index: Index, generation: str) -> list[tuple[str, float]]:
    opened = Index(open_generation(index.generation.path, generation=generation))
    return [(hit.id, hit.score) for hit in opened.search(query(), k=9)]


def query() -> Any:
    return unit_vectors(np.random.default_rng(8), 4)


class Asking:
    """A client that asks all the time and keeps what it was told."""

    def __init__(self, world: World) -> None:
        self.answers: list[tuple[str, list[tuple[str, float]]]] = []
        self._tasks = [
            asyncio.create_task(self._ask(gateway.address)) for gateway in world.gateways
        ]

    async def _ask(self, address: str) -> None:
        async with AsyncClient(address, retry=RetryPolicy(attempts=1), timeout_s=20.0) as client:
            while True:
                answer = await client.search(query(), k=9)
                self.answers.append(
                    (answer.generation, [(hit.id, hit.score) for hit in answer.hits])
                )

    async def more(self) -> None:
        """Wait for some more answers."""
        wanted, end = len(self.answers) + 5, time.monotonic() + TIMEOUT_S
        while len(self.answers) < wanted:
            assert time.monotonic() < end
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        await self.more()
        for task in self._tasks:
            assert not task.done(), task.exception()
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def test_a_swap_there_and_back_under_queries(index: Index) -> None:
    first, second = generations(index)
    wanted = {name: truth(index, name) for name in (first, second)}
    assert wanted[first] != wanted[second]

    async def scene(world: World) -> None:
        asking = Asking(world)
        for name in (first, second, first):
            state = await world.controller.roll_out(RolloutCall(generation=name))
            with pytest.raises(AlreadyRunning, match=name):
                await world.controller.roll_out(RolloutCall())
            state = await world.done(state)
            assert state.phase is RolloutPhase.DONE, state
            await asking.more()
        await asking.end()
        assert {name for name, _ in asking.answers} == {first, second}
        assert all(hits == wanted[name] for name, hits in asking.answers)
        stats = await world.controller.stats()
        assert (stats.live_generation, stats.behind_disk) == (first, True)
        assert len(world.servers.running) == 2  # one for each shard of the first

    play(index, scene)


def test_a_controller_that_dies_anywhere_goes_on_where_it_was(index: Index) -> None:
    first, second = generations(index)

    async def scene(world: World) -> None:
        asking = Asking(world)
        await world.kill_controller()
        await asyncio.sleep(0.3)
        await world.new_controller()
        stats = await world.controller.stats()
        assert (stats.live_generation, stats.controller.restarts) == (second, 1)
        for phase in (RolloutPhase.LOADING, RolloutPhase.WARMING, RolloutPhase.SWITCHING):
            target = first if stats.live_generation == second else second
            state = await world.controller.roll_out(RolloutCall(generation=target))
            await world.reached(state, phase)
            version = (await world.controller.stats()).table_version
            await world.kill_controller()
            await world.new_controller()
            assert (await world.done(state)).phase is RolloutPhase.DONE
            stats = await world.controller.stats()
            assert stats.live_generation == target
            assert stats.table_version >= version
        await asking.end()

    play(index, scene)


def test_what_is_damaged_is_rolled_back_with_the_reason(index: Index, tmp_path: Path) -> None:
    path = Path(shutil.copytree(index.generation.path, tmp_path / "ix"))
    _, second = generations(index)
    Index.open(path).delete(["p1"])
    third = Index.open(path).manifest.generation
    stones = Index.open(path).manifest.shards[0].tombstones
    stones = stones or Index.open(path).manifest.shards[1].tombstones
    assert stones is not None
    damaged = path / stones.file
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")

    async def scene(world: World) -> None:
        asking = Asking(world)
        state = await world.controller.roll_out(RolloutCall(str(path), third))
        state = await world.done(state)
        assert state.phase is RolloutPhase.ROLLED_BACK
        assert state.error == "IndexCorrupt"
        assert stones.file in state.reason
        await until(lambda: world.controller.list_shards(), lambda t: len(t.generations) == 1)
        await asking.end()
        assert {name for name, _ in asking.answers} == {second}

    play(index, scene)


def test_servers_that_do_not_come_are_said_and_given_up(index: Index) -> None:
    first, second = generations(index)

    async def scene(world: World) -> None:
        world.servers.held_back = True
        call = RolloutCall(generation=first, timeout_s=1.0)
        state = await world.done(await world.controller.roll_out(call))
        assert state.phase is RolloutPhase.ROLLED_BACK
        assert "0 of 1 ready" in state.reason
        assert (await world.controller.stats()).live_generation == second

    play(index, scene)


def test_a_killed_server_is_found_again_and_a_drained_one_replaced(index: Index) -> None:
    async def scene(world: World) -> None:
        asking = Asking(world)
        one = sorted(world.servers.running)[0]
        drained = await world.controller.drain("replica", one)
        assert drained.replica_ids == (one,)
        await until(lambda: world.controller.list_shards(), lambda t: f"'{one}'" not in str(t))
        other = sorted(world.servers.running)[0]
        world.servers.kill(other)

        def ready(topology: Any) -> bool:
            return all(
                [one.phase for one in shard.replicas] == [ReplicaPhase.READY] * 2
                for shard in topology.generations[0].shards
            )

        await until(lambda: world.controller.list_shards(), ready)
        await asking.end()
        with pytest.raises(InvalidInput, match="no replica nobody"):
            await world.controller.drain("replica", "nobody")

    play(index, scene, replicas=2)


def test_bounds_and_names_that_are_not_possible(index: Index) -> None:
    async def scene(world: World) -> None:
        ask = world.controller
        for change, match in (
            (ScaleChange(replicas=0), "replicas is 0"),
            (ScaleChange(min_replicas=3, max_replicas=2), "min_replicas is 3"),
            (ScaleChange(replicas=5, max_replicas=2), "replicas is 5; the bounds allow 1 to 2"),
        ):
            with pytest.raises(InvalidInput, match=match):
                await ask.scale(change)
        with pytest.raises(IndexMissing):
            await ask.roll_out(RolloutCall(generation="g999999-000000"))
        with pytest.raises(InvalidInput, match="timeout_s is -1"):
            await ask.roll_out(RolloutCall(timeout_s=-1.0))
        with pytest.raises(InvalidInput, match="rollout x is not known"):
            await ask.rollout("x")
        scale = await ask.scale(ScaleChange(max_replicas=4))
        assert (scale.replicas, scale.min_replicas, scale.max_replicas) == (1, 1, 4)

    play(index, scene)
