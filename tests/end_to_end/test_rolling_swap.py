"""Generations are swapped while queries run, and everything that the control plane is made of is
killed meanwhile: real processes, no query fails, and no answer mixes generations."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from processes import descendants, first_line, tartan
from served_generations import Generations, load_on

from cluster.client import Client
from cluster.client_admin import AdminClient
from cluster.wire.admin import (
    GatewayPhase,
    ReplicaPhase,
    RolloutCall,
    RolloutPhase,
    ScaleChange,
    Stats,
    Topology,
)
from colbert_core.errors import AlreadyRunning, IndexMissing, RolledBack, TartanError

TIMEOUT_S = 120.0


@dataclass
class Service:
    """A running `tartan serve` of two gateways."""

    process: subprocess.Popen[str]
    addresses: list[str]
    generations: Generations

    def admin(self) -> AdminClient:
        return AdminClient(self.addresses[0], timeout_s=30.0)

    def roll_out(self, generation: str) -> list[RolloutPhase]:
        """Roll out to the end; the phases that were told."""
        with self.admin() as admin:
            call = RolloutCall(generation=generation)
            return [state.phase for state in admin.roll_out(call, timeout_s=TIMEOUT_S)]

    def processes(self, kind: str) -> list[int]:
        """Process ids of the actors of a class."""
        found = descendants(self.process.pid)
        return [pid for pid, command in found.items() if command.startswith(f"ray::{kind}")]

    def expect(self, kind: str, count: int) -> None:
        """It comes to have so many: a process takes a moment to end."""
        end = time.monotonic() + TIMEOUT_S
        while len(found := self.processes(kind)) != count:
            if time.monotonic() > end:
                runs, known = descendants(self.process.pid), self.topology(lambda _: True)
                raise AssertionError(f"{found} instead of {count} {kind}: {runs}, {known}")
            time.sleep(0.1)  # polling other processes; there is no event to wait for

    def stats(self, until: Callable[[Stats], bool] = lambda _: True) -> Stats:
        """What an operator sees, once it is so."""
        return _until(lambda admin: admin.stats(), until, self)

    def topology(self, until: Callable[[Topology], bool]) -> Topology:
        return _until(lambda admin: admin.list_shards(), until, self)


def _until(ask, is_so, service):  # type: ignore[no-untyped-def]
    """Ask until it is so; the controller may be away meanwhile."""
    end = time.monotonic() + TIMEOUT_S
    said: object = None
    with service.admin() as admin:
        while time.monotonic() < end:
            try:
                said = ask(admin)
                if is_so(said):
                    return said
            except TartanError as error:
                said = error
            time.sleep(0.1)  # polling other processes; there is no event to wait for
    raise AssertionError(f"waited {TIMEOUT_S:.0f} s, and it still is so: {said}")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    generations = Generations(tmp_path_factory.mktemp("swap") / "index", 4)
    process = tartan(
        "serve",
        f"{generations.path}",
        *("--port", "0", "--gateways", "2", "--start-timeout", "150"),
    )
    line = first_line(process)
    try:
        assert " at " in line, line
        yield Service(process, line.strip().rpartition(" at ")[2].split(", "), generations)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(TIMEOUT_S)


def test_swaps_under_load_fail_no_query_and_mix_no_answer(service: Service) -> None:
    first, second, third, live = service.generations.names
    with load_on(service.generations, service.addresses) as load:
        for name in (first, second, third):
            phases = service.roll_out(name)
            assert phases[-1] is RolloutPhase.DONE
            assert phases == sorted(phases, key=list(RolloutPhase).index)  # each may be short
        before = load.total
        end = time.monotonic() + TIMEOUT_S
        while load.total < before + 30 and time.monotonic() < end:
            time.sleep(0.05)  # for answers after the last swap
    assert set(load.answers) == {first, second, third, live}
    topology = service.topology(lambda said: len(said.generations) == 1)
    assert topology.generations[0].generation == third
    service.expect("ShardServerActor", 2)


def test_a_second_rollout_is_refused_and_says_by_what(service: Service) -> None:
    live = service.stats().live_generation
    target = next(name for name in service.generations.names if name != live)
    with service.admin() as admin:
        steps = admin.roll_out(RolloutCall(generation=target), timeout_s=TIMEOUT_S)
        assert next(steps).phase is RolloutPhase.LOADING
        with pytest.raises(AlreadyRunning, match=f"to generation {target} is under way"):
            list(admin.roll_out(RolloutCall(), timeout_s=TIMEOUT_S))
        assert list(steps)[-1].phase is RolloutPhase.DONE
        with pytest.raises(IndexMissing, match="nothing"):
            list(admin.roll_out(RolloutCall(generation="nothing"), timeout_s=TIMEOUT_S))


def test_a_damaged_generation_is_rolled_back_and_nobody_notices(service: Service) -> None:
    damaged = service.generations.add()
    entry = service.generations.index.manifest.shards[0]
    codes = next((service.generations.path / "shards" / entry.id).glob("*residuals*"))
    data = bytearray(codes.read_bytes())
    data[len(data) // 2] ^= 1
    codes.chmod(0o644)
    codes.write_bytes(bytes(data))
    live = service.stats().live_generation
    with load_on(service.generations, service.addresses) as load:
        with pytest.raises(RolledBack, match=r"rolled back: shard .*altered"):
            service.roll_out(damaged)
        assert service.stats().behind_disk
        service.topology(lambda said: len(said.generations) == 1)
    assert set(load.answers) == {live}
    service.expect("ShardServerActor", 2)


def test_the_controller_is_killed_at_rest_and_in_a_rollout(service: Service) -> None:
    with load_on(service.generations, service.addresses):
        before = service.stats()
        (controller,) = service.processes("ControllerActor")
        os.kill(controller, signal.SIGKILL)
        after = service.stats(lambda said: said.controller.restarts > before.controller.restarts)
        assert after.table_version >= before.table_version
        assert after.live_generation == before.live_generation
        target = next(n for n in service.generations.names[:4] if n != before.live_generation)
        with service.admin() as admin:
            phases = []
            call = RolloutCall(generation=target)
            for state in admin.roll_out(call, timeout_s=TIMEOUT_S):
                if not phases:
                    (controller,) = service.processes("ControllerActor")
                    os.kill(controller, signal.SIGKILL)
                phases.append(state.phase)
        assert phases[-1] is RolloutPhase.DONE
        assert service.stats().table_version > after.table_version
    service.topology(lambda said: len(said.generations) == 1)
    service.expect("ShardServerActor", 2)


def test_a_shard_server_is_killed_in_a_rollout(service: Service) -> None:
    """One of the two of a shard of the generation that comes, as soon as it has a process."""
    live = service.stats().live_generation
    target = next(name for name in service.generations.names[:4] if name != live)
    with service.admin() as admin:
        admin.scale(ScaleChange(replicas=2))
        service.topology(lambda said: _ready(said) == [2, 2])
        old = set(service.processes("ShardServerActor"))
        with load_on(service.generations, service.addresses):
            steps = admin.roll_out(RolloutCall(generation=target), timeout_s=TIMEOUT_S)
            next(steps)
            end = time.monotonic() + TIMEOUT_S
            while not (new := set(service.processes("ShardServerActor")) - old):
                assert time.monotonic() < end
            os.kill(new.pop(), signal.SIGKILL)
            assert list(steps)[-1].phase is RolloutPhase.DONE
            service.topology(lambda said: _ready(said) == [2, 2])
        assert service.stats().live_generation == target
        admin.scale(ScaleChange(replicas=1))
        service.topology(lambda said: _ready(said) == [1, 1])


def test_a_killed_gateway_is_replaced(service: Service) -> None:
    first, killed = service.addresses
    (gateway,) = service.processes("GatewayActor")
    with load_on(service.generations, [first]):
        os.kill(gateway, signal.SIGKILL)
        service.stats(lambda said: bool(_serving(said) - {first, killed}))
    (second,) = _serving(service.stats()) - {first, killed}
    with Client(second) as client:
        assert client.search(service.generations.queries[0]).hits
    service.addresses[1] = second


def _serving(stats: Stats) -> set[str]:
    return {one.address for one in stats.gateways if one.phase is GatewayPhase.SERVING}


def test_replicas_are_added_drained_and_taken_away_under_load(service: Service) -> None:
    with load_on(service.generations, service.addresses), service.admin() as admin:
        admin.scale(ScaleChange(replicas=2))
        grown = service.topology(lambda said: _ready(said) == [2, 2])
        one = grown.generations[0].shards[0].replicas[0].replica_id
        assert admin.drain(replica=one).replica_ids == (one,)
        service.topology(lambda said: _ready(said) == [2, 2] and one not in str(said))
        admin.scale(ScaleChange(replicas=1))
        service.topology(lambda said: _ready(said) == [1, 1])


def _ready(topology: Topology) -> list[int]:
    """Ready replicas of each shard, where there is nothing else."""
    live, *others = topology.generations
    if others:
        return []
    phases = [[one.phase for one in shard.replicas] for shard in live.shards]
    if any(phase is not ReplicaPhase.READY for shard in phases for phase in shard):
        return []
    return [len(shard) for shard in phases]


def test_the_command_rolls_out_and_restarts(service: Service) -> None:
    live = service.stats().live_generation
    old = set(service.processes("ShardServerActor"))
    place = f"{service.generations.path}@{live}"
    with load_on(service.generations, service.addresses, all_known=True):  # a gateway moves, too
        process = tartan("rollout", place, "--target", service.addresses[0])
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert output.splitlines()[-1].split()[2:4] == [live, "done:"]
    assert not old & set(service.processes("ShardServerActor"))
    first, replaced = service.addresses
    stats = service.stats(lambda said: bool(_serving(said) - {first, replaced}))
    (service.addresses[1],) = _serving(stats) - {first, replaced}


@pytest.mark.long
def test_twenty_swaps_under_load(service: Service) -> None:
    names = service.generations.names[:4]
    with load_on(service.generations, service.addresses) as load:
        for turn in range(20):
            live = service.stats().live_generation
            target = names[turn % 4] if names[turn % 4] != live else names[(turn + 1) % 4]
            assert service.roll_out(target)[-1] is RolloutPhase.DONE
    assert set(load.answers) >= set(names)
    print(f"{load.total} answers, none failed, none mixed")
