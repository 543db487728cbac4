"""The admin service of a real gateway over a stand-in for the controller; and its conversions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
from local_cluster import FixedTable, LoopThread
from local_cluster import served as served_generation

from cluster.client_admin import AdminClient
from cluster.gateway import Gateway, GatewayConfig
from cluster.gateway_admin import AdminServicer
from cluster.security.api_keys import new_key
from cluster.topology import RoutingTable
from cluster.wire import admin
from cluster.wire.admin import (
    Drained,
    GatewayPhase,
    GenerationRole,
    ReplicaPhase,
    RolloutCall,
    RolloutPhase,
    RolloutState,
    ScaleChange,
    ScaleState,
)
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.tartan.v1 import admin_pb2
from colbert_core.errors import AlreadyRunning, InvalidInput, NotAllowed, RolledBack, Unavailable
from colbert_core.index import open_generation

REPLICA = admin.ReplicaState(
    "g.s.0", "127.0.0.1:7", "n1", "127.0.0.1", ReplicaPhase.READY, 1.5, True, "slow", 3, 0.5, 9, 77
)
SHARD = admin.ShardState("s", 10, 2**40, 2, (REPLICA, replace(REPLICA, replica_id="g.s.1")))
TOPOLOGY = admin.Topology(4, (admin.GenerationState("/ix", "g", GenerationRole.LIVE, (SHARD,)),))
SCALE = ScaleState(2, 1, 4, 1, 1, 2, "so it was asked")
BEGUN = RolloutState("r1", "/ix", "g2", "g", RolloutPhase.LOADING, "0 of 2", "", 0.1)
STATS = admin.Stats(
    service="ix",
    index="/ix",
    live_generation="g",
    disk_generation="g2",
    behind_disk=True,
    table_version=4,
    gateways=(admin.GatewayState("gw", "127.0.0.1:5", "n1", GatewayPhase.SERVING, 0.2, 4, "g"),),
    in_flight=1,
    queries=2**33,
    scale=SCALE,
    rollout=None,
    controller=admin.ControllerState(12.0, 1),
)


class Backend:
    """Answers as a controller would, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.next: list[RolloutState | Exception] = []

    async def list_shards(self) -> admin.Topology:
        return TOPOLOGY

    async def stats(self) -> admin.Stats:
        return STATS

    async def roll_out(self, call: RolloutCall) -> RolloutState:
        self.asked.append(call)
        if call.generation == "busy":
            raise AlreadyRunning("a rollout to g2 is under way")
        return BEGUN

    async def rollout(self, rollout_id: str) -> RolloutState:
        assert rollout_id == BEGUN.rollout_id
        await asyncio.sleep(0)
        now = self.next.pop(0)
        if isinstance(now, Exception):
            raise now
        return now

    async def scale(self, change: ScaleChange) -> ScaleState:
        self.asked.append(change)
        return SCALE

    async def drain(self, kind: str, name: str) -> Drained:
        self.asked.append((kind, name))
        return Drained(("g.s.0",), ())


class Served:
    """A gateway with the admin service, and what is behind it."""

    def __init__(self, index: Path, config: GatewayConfig) -> None:
        self.backend = Backend()
        self.loop = LoopThread()
        manifest = open_generation(index, shards=()).manifest
        shards: list[list[str]] = [[] for _ in manifest.shards]  # nobody is asked for passages here
        source = FixedTable(RoutingTable(1, served_generation(index, manifest, shards)))
        services = [AdminServicer(self.backend)]

        async def start() -> None:
            self.gateway = Gateway(source, config, ShardChannel, services=services)
            self.address = await self.gateway.start()

        self.loop.run(start())

    def close(self) -> None:
        self.loop.run(self.gateway.stop(0.1))
        self.loop.close()


@pytest.fixture(scope="module")
def served(small_index: Path) -> Iterator[Served]:
    served = Served(small_index, GatewayConfig(port=0))
    yield served
    served.close()


def test_topology_and_stats_arrive_as_they_were_said(served: Served) -> None:
    with AdminClient(served.address) as client:
        assert client.list_shards() == TOPOLOGY
        assert client.stats() == STATS
        assert client.reload() == ("r1", "g2")


def test_a_rollout_is_followed_over_an_absence_of_the_controller_to_its_end(served: Served) -> None:
    warming = replace(BEGUN, phase=RolloutPhase.WARMING)
    done = replace(BEGUN, phase=RolloutPhase.DONE, message="took 3 s")
    served.backend.next = [BEGUN, Unavailable("it restarts"), warming, warming, done]
    call = RolloutCall(generation="g2", replicas=3)
    with AdminClient(served.address) as client:
        assert list(client.roll_out(call, timeout_s=30)) == [BEGUN, warming, done]
    assert served.backend.asked[-1] == call


def test_a_rollback_is_an_error_that_says_why(served: Served) -> None:
    served.backend.next = [replace(BEGUN, phase=RolloutPhase.ROLLED_BACK, reason="it is damaged")]
    with AdminClient(served.address) as client:
        steps = client.roll_out(RolloutCall(), timeout_s=30)
        with pytest.raises(RolledBack, match=r"g2 was rolled back: it is damaged; g is served"):
            list(steps)
        with pytest.raises(AlreadyRunning, match="g2 is under way"):
            list(client.roll_out(RolloutCall(generation="busy"), timeout_s=30))


def test_scale_and_drain_pass_on_what_is_set(served: Served) -> None:
    with AdminClient(served.address) as client:
        assert client.scale(ScaleChange(gateways=3)) == SCALE
        assert client.drain(node="n1") == Drained(("g.s.0",), ())
        assert served.backend.asked[-2:] == [ScaleChange(gateways=3), ("node", "n1")]
        with pytest.raises(InvalidInput, match="drain what"):
            client.drain()


def test_the_role_search_may_not(small_index: Path, tmp_path: Path) -> None:
    line, key = new_key("tests", "search")
    (tmp_path / "keys").write_text(line.line() + "\n")
    served = Served(small_index, GatewayConfig(port=0, api_keys=tmp_path / "keys"))
    try:
        with AdminClient(served.address, api_key=key) as client:
            with pytest.raises(NotAllowed, match="admin"):
                client.stats()
            with pytest.raises(NotAllowed, match="admin"):
                list(client.roll_out(RolloutCall(), timeout_s=30))
        assert not served.backend.asked
    finally:
        served.close()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (admin.ReplicaState, admin_pb2.ReplicaState),
        (admin.ShardState, admin_pb2.ShardState),
        (admin.GenerationState, admin_pb2.GenerationState),
        (admin.Topology, admin_pb2.ListShardsResponse),
        (admin.GatewayState, admin_pb2.GatewayState),
        (admin.ScaleState, admin_pb2.ScaleState),
        (admin.ScaleChange, admin_pb2.ScaleRequest),
        (admin.RolloutState, admin_pb2.RolloutState),
        (admin.RolloutCall, admin_pb2.RolloutRequest),
        (admin.ControllerState, admin_pb2.ControllerState),
        (admin.Stats, admin_pb2.GetStatsResponse),
        (admin.Drained, admin_pb2.DrainResponse),
    ],
)
def test_values_have_the_fields_of_their_messages(kind: type, message: type) -> None:
    described = message.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    assert [field.name for field in fields(kind)] == list(described)
