"""The controller's decisions, in a world that does anything at any time: hypothesis plays it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.controller.reconcile import reconcile
from cluster.controller.state import (
    GatewaySlot,
    Heard,
    Observed,
    Probe,
    Rollout,
    Scale,
    Service,
    ShardSize,
    Spec,
    from_json,
    to_json,
)
from cluster.controller.table import table_of
from cluster.controller.timing import Timing
from cluster.topology import GatewayReport, RoutingTable
from cluster.wire.admin import ReplicaPhase, RolloutPhase

TIMING = Timing(silent_s=5.0, hung_s=30.0, drain_s=60.0)
SHARDS = (ShardSize("a", 10, 100), ShardSize("b", 10, 100))


def spec(number: int) -> Spec:
    return Spec("/index", f"g{number}", SHARDS)


@dataclass
class Server:
    """A shard server: what its process does."""

    generation: str
    shard_id: str
    ready: bool = False
    dead: bool = False
    node: str = "n"


@dataclass
class Gateway:
    """A gateway as topology.py describes it."""

    name: str
    table: RoutingTable | None = None
    warmed: str = ""
    problem: str = ""
    calls: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def live(self) -> str:
        return "" if self.table is None else self.table.live.generation

    def report(self) -> GatewayReport:
        outstanding: dict[str, int] = {}
        for _, replicas in self.calls.values():
            for one in replicas:
                outstanding[one] = outstanding.get(one, 0) + 1
        return GatewayReport(
            self.name,
            self.name,
            0 if self.table is None else self.table.version,
            self.live,
            self.warmed,
            self.problem,
            tuple({self.live} | {generation for generation, _ in self.calls.values()} - {""}),
            outstanding=outstanding,
        )


class World:
    """A service, its servers and gateways, and a clock."""

    def __init__(self, replicas: int = 1) -> None:
        self.now = 1000.0
        self.service = Service("s", scale=Scale(replicas=replicas, max_replicas=9))
        self.servers: dict[str, Server] = {}
        self.gateways: list[Gateway] = []
        self.heard: dict[str, Heard] = {}
        self.since = self.now
        self.numbers = 0
        self.generations = 1
        self.slots: dict[str, str] = {}  # addresses, by the slots' names
        self.node = "n"
        self.begin(1)

    @property
    def changing(self) -> bool:
        """Whether a rollout is under way."""
        return self.service.rollout is not None and self.service.rollout.under_way

    def begin(self, number: int, *, timeout_s: float = 300.0) -> None:
        target, live = spec(number), self.service.live
        same = live == target
        rollout = Rollout(
            f"r{self.now}",
            target,
            live,
            self.now,
            self.now,
            self.now + timeout_s,
            restart=same,
            replicas_before=self.service.scale.replicas,
        )
        software = self.service.software + same
        self.service = replace(self.service, rollout=rollout, software=software)

    def step(self, seconds: float = 1.0) -> None:
        self.now += seconds
        probes = {
            name: Probe(
                address=f"{name}:1" if server.ready and not server.dead else "",
                alive=not server.dead,
                heard_at=self.now,
                node_id=server.node,
            )
            for name, server in self.servers.items()
        }
        probes |= {name: Probe(address=where) for name, where in self.slots.items()}
        seen = Observed(probes, self.heard, self.since)
        before = self.service
        self.service = reconcile(before, seen, self.now, TIMING)
        self.check(before)
        self._do()

    def _do(self) -> None:
        """What servers.py does: start what should exist, stop what should not."""
        wanted = {replica.replica_id: replica for replica in self.service.replicas}
        for name in list(self.servers):
            if name not in wanted:
                del self.servers[name]
        for name, replica in wanted.items():
            if name not in self.servers or self.servers[name].dead:
                self.servers[name] = Server(replica.generation, replica.shard_id, node=self.node)

    def check(self, before: Service) -> None:
        """What reconcile.py promises, of one step."""
        old, new = table_of(before), table_of(self.service)
        assert self.service.version >= before.version
        if old is not None and new is not None:
            same = (old.live, old.warming) == (new.live, new.warming)
            assert same == (old.version == new.version)
        self._check_ends(before)
        if new is not None and (old is None or old.live.generation != new.live.generation):
            for shard in new.live.shards:
                assert any(one.admitting for one in shard.replicas), "live, and not there"
            for heard in self.heard.values():
                if old is not None and self.now - heard.at <= TIMING.silent_s and heard.report.live:
                    assert heard.report.warmed == new.live.generation, "live, and not warm"

    def _check_ends(self, before: Service) -> None:
        """Only a drained server ends, and not while somebody who reports works on it."""
        stay = {replica.replica_id for replica in self.service.replicas}
        live = "" if self.service.live is None else self.service.live.generation
        for replica in before.replicas:
            if replica.replica_id in stay or replica.phase is ReplicaPhase.STARTING:
                continue
            if not self.servers[replica.replica_id].dead:
                assert replica.phase is ReplicaPhase.DRAINING
                in_time = self.now - replica.since <= TIMING.drain_s
                for heard in self.heard.values():
                    if in_time and self.now - heard.at <= TIMING.silent_s:
                        assert not heard.report.outstanding.get(replica.replica_id)
                        assert heard.report.version >= replica.left_at > 0
        for shard in SHARDS:
            admitting = [
                len([r for r in service.replicas if r.phase is ReplicaPhase.READY
                     and (r.generation, r.shard_id) == (live, shard.shard_id)
                     and not self.servers[r.replica_id].dead])
                for service in (before, self.service)
            ]  # fmt: skip
            assert admitting[1] or not admitting[0], "the last server of a live shard was drained"

    def poll(self, gateway: Gateway) -> None:
        """One poll, and what a gateway does with the table."""
        self.heard[gateway.name] = Heard(gateway.report(), self.now)
        table = table_of(self.service)
        if table is None or (gateway.table is not None and gateway.table.version == table.version):
            return
        assert gateway.table is None or table.version > gateway.table.version
        gateway.table, gateway.problem = table, ""
        if table.warming is None:
            gateway.warmed = ""

    def warm(self, gateway: Gateway) -> None:
        if gateway.table is not None and gateway.table.warming is not None:
            gateway.warmed = gateway.table.warming.generation

    def ask(self, gateway: Gateway) -> bool:
        """Begin a query: on one admitting replica of each shard of what is live there."""
        if gateway.table is None:
            return False
        chosen = []
        for shard in gateway.table.live.shards:
            admitting = [one.replica_id for one in shard.replicas if one.admitting]
            if not admitting:
                return False
            chosen.append(admitting[0])
        self.numbers += 1
        gateway.calls[self.numbers] = (gateway.table.live.generation, tuple(chosen))
        return True

    def settle(self) -> None:
        """Long enough of everything going well."""
        for _ in range(60):
            for server in self.servers.values():
                server.ready = True
            for gateway in self.gateways:
                gateway.calls.clear()
                self.poll(gateway)
                self.warm(gateway)
            self.step()


def pick(things: Iterable[Any], number: int) -> Any:
    """One of them, or None where there is none."""
    listed = list(things)
    return listed[number % len(listed)] if listed else None


def time_passes(world: World, number: int) -> None:
    world.step([0.2, 1.0, 7.0, 40.0][number % 4])


def all_go_on(world: World, number: int) -> None:
    """Everybody does what it should, and time passes."""
    for server in world.servers.values():
        server.ready = True
    for gateway in world.gateways:
        world.poll(gateway)
        world.warm(gateway)
    world.step(0.1 + number / 10)


def a_server_is_ready(world: World, number: int) -> None:
    if (name := pick(sorted(world.servers), number)) is not None:
        world.servers[name].ready = True


def a_server_dies(world: World, number: int) -> None:
    if (name := pick(sorted(world.servers), number)) is not None:
        world.servers[name].dead = True


def a_gateway_joins(world: World, number: int) -> None:
    if len(world.gateways) < 3:
        world.numbers += 1
        world.gateways.append(Gateway(f"gw{world.numbers}"))


def a_gateway_polls(world: World, number: int) -> None:
    if (gateway := pick(world.gateways, number)) is not None:
        world.poll(gateway)


def a_gateway_is_warm(world: World, number: int) -> None:
    if (gateway := pick(world.gateways, number)) is not None:
        world.warm(gateway)


def a_gateway_cannot_warm(world: World, number: int) -> None:
    gateway = pick(world.gateways, number)
    if gateway is not None and gateway.table is not None and gateway.table.warming is not None:
        gateway.warmed, gateway.problem = "", "the warm-up query failed"


def a_query_begins(world: World, number: int) -> None:
    if (gateway := pick(world.gateways, number)) is not None:
        world.ask(gateway)


def queries_end(world: World, number: int) -> None:
    if (gateway := pick(world.gateways, number)) is not None:
        gateway.calls.clear()


def another_generation(world: World, number: int) -> None:
    if world.service.live is not None and not world.changing:
        world.generations += 1
        world.begin(world.generations, timeout_s=[3.0, 300.0][number % 2])


def a_restart(world: World, number: int) -> None:
    if world.service.live is not None and not world.changing:
        world.begin(int(world.service.live.generation[1:]))


def a_scale(world: World, number: int) -> None:
    scale = replace(world.service.scale, replicas=1 + number % 3)
    world.service = replace(world.service, scale=scale)


def the_controller_is_killed(world: World, number: int) -> None:
    world.service = from_json(to_json(world.service))
    world.heard.clear()
    world.since = world.now


MOVES = (
    time_passes,
    all_go_on,
    a_server_is_ready,
    a_server_dies,
    a_gateway_joins,
    a_gateway_polls,
    a_gateway_is_warm,
    a_gateway_cannot_warm,
    a_query_begins,
    queries_end,
    another_generation,
    a_restart,
    a_scale,
    the_controller_is_killed,
)
Move = tuple[Callable[[World, int], None], int]
moves = st.tuples(st.sampled_from(MOVES), st.integers(0, 11))


@given(st.lists(moves, max_size=80))
@settings(max_examples=120)
@example([(all_go_on, 9), (a_gateway_joins, 0), *[(all_go_on, 9)] * 8, (another_generation, 1)])
def test_whatever_happens_the_promises_hold_and_it_gets_where_it_should(played: list[Move]) -> None:
    world = World()
    for move, number in played:
        move(world, number)
    if world.service.live is None and not world.changing:
        return  # the first start failed: there is nothing to serve
    world.settle()
    assert not world.changing
    table = table_of(world.service)
    assert table is not None
    for shard in table.live.shards:
        assert len(shard.replicas) == world.service.scale.replicas
        assert all(one.admitting for one in shard.replicas)
    assert len(world.servers) == len(world.service.replicas) == 2 * world.service.scale.replicas
    assert all(gateway.table == table for gateway in world.gateways)


def served(gateways: int = 1, replicas: int = 1) -> World:
    """A world that serves g1 through so many gateways."""
    world = World(replicas)
    for number in range(gateways):
        world.gateways.append(Gateway(f"gw{number}"))
    world.settle()
    return world


def phases(world: World) -> list[RolloutPhase]:
    """Go on until the rollout is over; what it went through."""
    found: list[RolloutPhase] = []
    for _ in range(100):
        assert world.service.rollout is not None
        if not found or found[-1] is not world.service.rollout.phase:
            found.append(world.service.rollout.phase)
        if found[-1].over:
            break
        all_go_on(world, 9)
    return found


P = RolloutPhase


def test_a_rollout_goes_through_its_steps_and_leaves_only_the_new() -> None:
    world = served(gateways=2, replicas=2)
    world.begin(2)
    assert phases(world) == [P.LOADING, P.WARMING, P.SWITCHING, P.RELEASING, P.DONE]
    assert {server.generation for server in world.servers.values()} == {"g2"}
    assert [gateway.live for gateway in world.gateways] == ["g2", "g2"]


def test_a_query_that_takes_long_keeps_the_servers_that_it_began_on() -> None:
    world = served()
    (gateway,) = world.gateways
    assert world.ask(gateway)
    world.begin(2)
    for _ in range(40):
        all_go_on(world, 9)
    assert gateway.live == "g2"
    assert {server.generation for server in world.servers.values()} == {"g1", "g2"}
    gateway.calls.clear()
    assert phases(world)[-1] is P.DONE
    assert {server.generation for server in world.servers.values()} == {"g2"}


def test_a_gateway_that_cannot_warm_takes_the_rollout_back_and_nobody_noticed() -> None:
    world = served(gateways=2)
    world.begin(2)
    while world.service.rollout is not None and world.service.rollout.phase is not P.WARMING:
        all_go_on(world, 9)
    for gateway in world.gateways:
        world.poll(gateway)
    a_gateway_cannot_warm(world, 1)
    assert phases(world)[-1] is P.ROLLED_BACK
    assert world.service.rollout is not None
    assert "the warm-up query failed" in world.service.rollout.reason
    world.settle()
    assert {server.generation for server in world.servers.values()} == {"g1"}
    assert [gateway.live for gateway in world.gateways] == ["g1", "g1"]


def test_a_shard_that_cannot_be_loaded_takes_it_back_with_the_servers_words() -> None:
    world = served()
    world.begin(2)
    world.step()
    broken = next(name for name, server in world.servers.items() if server.generation == "g2")
    seen = Observed({broken: Probe(error="IndexCorrupt", message="x is cut")}, world.heard, 0.0)
    after = reconcile(world.service, seen, world.now + 1, TIMING)
    assert after.rollout is not None
    assert after.rollout.phase is P.ROLLED_BACK
    assert after.rollout.error == "IndexCorrupt"
    assert "x is cut" in after.rollout.reason
    assert {replica.generation for replica in after.replicas} == {"g1"}


def test_time_that_is_over_says_what_was_waited_for() -> None:
    world = served()
    world.begin(2, timeout_s=3.0)
    for _ in range(5):
        world.step()
    rollout = world.service.rollout
    assert rollout is not None
    assert rollout.phase is P.ROLLED_BACK
    assert "waited" in rollout.reason
    assert "a 0 of 1 ready, b 0 of 1 ready" in rollout.reason


def test_a_silent_gateway_is_not_waited_for_and_a_late_one_is() -> None:
    world = served(gateways=2)
    silent, alive = world.gateways
    world.begin(2)
    for _ in range(3):
        for server in world.servers.values():
            server.ready = True
        world.poll(alive)
        world.warm(alive)
        world.step()
    assert alive.live == "g1"  # the other one may still report
    for _ in range(20):
        world.poll(alive)
        world.warm(alive)
        world.step()
    assert alive.live == "g2"
    assert silent.live == "g1"


def test_a_restart_replaces_every_server_and_gateway_one_after_another() -> None:
    world = served(replicas=2)
    before = set(world.servers)
    slots = tuple(GatewaySlot(f"gateway.{n}.{n}", n, 0, 0.0, f"host:{n}") for n in (1, 2))
    scale = replace(world.service.scale, gateways=3, max_gateways=3)
    world.service = replace(world.service, gateways=slots, scale=scale)
    world.gateways += [Gateway("host:1"), Gateway("host:2")]
    world.settle()
    world.begin(1)
    most = 0
    for _ in range(100):
        all_go_on(world, 9)
        ready = [one for one in world.service.replicas if one.phase is ReplicaPhase.READY]
        assert len(ready) >= 4
        most = max(most, len(world.servers))
        assert len([slot for slot in world.service.gateways if slot.address]) >= 1
        for slot in world.service.gateways:  # those that are new answer where the old ones did
            world.slots.setdefault(slot.gateway, f"host:{slot.number}")
        if not world.changing:
            break
    assert world.service.rollout is not None
    assert world.service.rollout.phase is P.DONE
    assert not before & set(world.servers)
    assert most <= 2 * 3 + 2
    assert {slot.software for slot in world.service.gateways} == {1}


def test_a_node_that_is_avoided_is_left_when_others_are_ready() -> None:
    world = served()
    world.service = replace(world.service, avoided=("n",))
    before = set(world.servers)
    world.node = "elsewhere"
    world.step()
    assert before < set(world.servers)
    world.settle()
    assert not before & set(world.servers)


def test_state_survives_as_json_also_from_other_versions() -> None:
    world = served(replicas=2)
    world.begin(2)
    all_go_on(world, 9)
    assert from_json(to_json(world.service)) == world.service
    raw = json.loads(to_json(world.service))
    raw["unknown"] = 1
    del raw["avoided"]
    assert from_json(json.dumps(raw).encode()) == world.service


def kept(world: World, seconds: int = 3, *, polling: bool = True) -> set[str]:
    """Who still runs after some seconds in which nothing else happens."""
    for _ in range(seconds):
        if polling:
            for gateway in world.gateways:
                world.poll(gateway)
        for server in world.servers.values():
            server.ready = True
        world.step()
    return set(world.servers)


def test_a_drained_server_ends_when_its_last_call_has() -> None:
    world = served(replicas=2)
    (gateway,) = world.gateways
    a_scale(world, 0)
    busy = [one.replica_id for one in world.service.replicas]
    gateway.calls[1] = ("g1", tuple(busy))
    assert kept(world, 10) == set(busy)
    gateway.calls.clear()
    assert len(kept(world)) == 2


def test_servers_of_a_generation_in_use_stay_also_between_two_calls_of_a_query() -> None:
    world = served()
    (gateway,) = world.gateways
    gateway.calls[1] = ("g1", ())
    world.begin(2)
    for _ in range(20):
        all_go_on(world, 9)
    assert gateway.live == "g2"
    assert {server.generation for server in world.servers.values()} == {"g1", "g2"}


def test_a_controller_that_has_just_come_back_waits_for_reports() -> None:
    world = served(replicas=2)
    a_scale(world, 0)
    world.gateways[0].calls[1] = ("g1", tuple(sorted(world.servers)))
    kept(world)
    the_controller_is_killed(world, 0)
    assert len(kept(world, 4, polling=False)) == 4
    world = served()
    world.begin(2)
    while world.service.rollout is not None and world.service.rollout.phase is not P.WARMING:
        all_go_on(world, 9)
    the_controller_is_killed(world, 0)
    kept(world, 4, polling=False)
    assert world.service.live == spec(1)


def test_no_switch_while_a_server_of_the_next_generation_is_away() -> None:
    world = served()
    world.begin(2)
    while world.service.rollout is not None and world.service.rollout.phase is not P.WARMING:
        all_go_on(world, 9)
    lost = next(name for name, server in world.servers.items() if server.generation == "g2")
    world.servers[lost].dead = True
    (gateway,) = world.gateways
    world.poll(gateway)
    world.warm(gateway)
    world.poll(gateway)
    world.step()
    world.step()
    assert world.service.live == spec(1)
    assert phases(world)[-1] is P.DONE


def test_it_is_switching_until_every_gateway_has_switched() -> None:
    world = served(gateways=2)
    world.begin(2)
    while world.service.rollout is not None and world.service.rollout.phase is not P.SWITCHING:
        all_go_on(world, 9)
    world.poll(world.gateways[0])
    world.step()
    assert world.service.rollout is not None
    assert world.service.rollout.phase is P.SWITCHING
    assert phases(world)[-1] is P.DONE


def test_a_restart_that_is_given_up_leaves_who_was_there_in_peace() -> None:
    world = served(replicas=2)
    before = set(world.servers)
    world.begin(1, timeout_s=3.0)
    for _ in range(8):  # the new servers never become ready
        world.poll(world.gateways[0])
        world.step()
    assert world.service.rollout is not None
    assert world.service.rollout.phase is P.ROLLED_BACK
    assert not any(one.leaving for one in world.service.replicas)
    assert kept(world) == before
