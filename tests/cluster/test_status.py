"""`tartan status`: in 80 columns whatever is shown, and nothing that is wrong is left out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_cluster import LoopThread

from cluster import cli_status
from cluster.gateway_admin import AdminServicer
from cluster.status_table import WIDTH, answers_whole, fit, lines_of, problems, span
from cluster.wire.admin import (
    ControllerState,
    GatewayPhase,
    GatewayState,
    GenerationRole,
    GenerationState,
    ReplicaPhase,
    ReplicaState,
    RolloutPhase,
    RolloutState,
    ScaleState,
    ShardState,
    Stats,
    Topology,
)

LIVE, NEXT = GenerationRole.LIVE, GenerationRole.NEXT
READY, STARTING = ReplicaPhase.READY, ReplicaPhase.STARTING


def replica(name: str, phase: ReplicaPhase = READY, **changes: Any) -> ReplicaState:
    values: dict[str, Any] = {
        "replica_id": name,
        "address": "" if phase is STARTING else f"10.0.0.7:4{name[-1]}123",
        "node_id": "n1",
        "node_address": "10.0.0.7",
        "phase": phase,
        "seconds_in_phase": 754.0,
        "outstanding": 3,
        "cpu": 0.31,
        "memory_bytes": 1_288_490_188,
    }
    return ReplicaState(**(values | changes))


def topology(*phases: ReplicaPhase, role: GenerationRole = LIVE, **changes: Any) -> Topology:
    """Two shards with a replica for each of the phases."""
    shards = tuple(
        ShardState(
            f"g000001-1c63e2-000{number}",
            61_000,
            9_400_000,
            2,
            tuple(replica(f"s{number}-r{i}", phase, **changes) for i, phase in enumerate(phases)),
        )
        for number in range(2)
    )
    return Topology(41, (GenerationState("/data/notes.tartan", "g000002-1f", role, shards),))


def stats(**changes: Any) -> Stats:
    gateway = GatewayState(
        "gw-1", "10.0.0.5:50051", "n0", GatewayPhase.SERVING, 0.4, 41, "g000002-1f", in_flight=3,
        queue_delay_ms=0.42, cpu=0.52, queries=18_201,
    )  # fmt: skip
    values: dict[str, Any] = {
        "service": "notes",
        "index": "/data/notes.tartan",
        "live_generation": "g000002-1f",
        "disk_generation": "g000002-1f",
        "behind_disk": False,
        "table_version": 41,
        "gateways": (gateway,),
        "in_flight": 3,
        "queries": 18_201,
        "scale": ScaleState(2, 1, 4, 1, 1, 3),
        "rollout": None,
        "controller": ControllerState(9_000.0, 0),
    }
    return Stats(**(values | changes))


def test_what_is_served_by_whom_and_how_busy_it_is() -> None:
    text = "\n".join(lines_of(topology(READY, READY), stats()))
    assert "generation g000002-1f\n" in text
    assert "18,201 queries answered, 3 in flight; table 41; controller up 2 h, 0 restarts" in text
    assert "replicas 2 of 1…4, gateways 1 of 1…3" in text
    assert "g000001-1c63e2-0001  61,000 passages, 2/2 ready" in text
    (gateway,) = [line for line in text.splitlines() if line.startswith("10.0.0.5:50051")]
    assert " ".join(gateway.split()) == "10.0.0.5:50051 serving 0 s 0 3 0.4 ms 0.52 18,201"
    (row,) = [line for line in text.splitlines() if line.startswith("  10.0.0.7:40123")][:1]
    assert " ".join(row.split()) == "10.0.0.7:40123 ready 12 min 3 0.31 1.2 GiB 10.0.0.7"
    assert "problems" not in text


def test_what_lags_is_shown() -> None:
    late = GatewayState("gw-2", "", "n1", GatewayPhase.STARTING, -1.0, 39, "g000001-aa")
    behind = stats(gateways=(late,), behind_disk=True, disk_generation="g000003-77")
    text = "\n".join(lines_of(topology(READY), behind))
    assert "g000003-77 on disk: `tartan rollout`" in text
    (row,) = [line for line in text.splitlines() if line.startswith("gw-2")]
    assert row.split()[:5] == ["gw-2", "starting", "never", "2", "old"]


def test_a_rollout_is_shown_with_what_it_waits_for() -> None:
    rollout = RolloutState(
        "r1", "/i", "g3", "g2", RolloutPhase.ROLLED_BACK, "", "warm-up query failed", 61.0
    )
    text = "\n".join(lines_of(topology(READY), stats(rollout=rollout)))
    assert "rollout to g3: rolled back, 1 min: warm-up query failed" in text


def test_problems_are_named() -> None:
    lost = topology(STARTING, problem="no node has a CPU free")
    silent = GatewayState("gw-9", "", "n", GatewayPhase.SILENT, 12.0)
    found = problems(lost, stats(gateways=(silent,)))
    assert "gateway gw-9: silent" in found
    assert "shard g000001-1c63e2-0000 has no replica that answers" in found
    assert "s1-r0: no node has a CPU free" in found
    assert "problems" in lines_of(lost, stats())


def test_whether_queries_are_answered_whole() -> None:
    assert answers_whole(topology(STARTING, READY))
    assert not answers_whole(topology(STARTING))
    assert not answers_whole(topology(READY, role=NEXT))
    assert not answers_whole(Topology(0, ()))


names = st.text(st.characters(codec="ascii", exclude_categories=["C"]), max_size=120)


@given(names, names, st.integers(0, 2**63), st.floats(0, 1e9), st.floats(0, 1e6))
def test_no_line_is_longer_than_80_columns(
    name: str, problem: str, number: int, seconds: float, cpu: float
) -> None:
    shown = topology(
        READY,
        STARTING,
        replica_id=name,
        address=name,
        node_address=name,
        problem=problem,
        outstanding=number % 2**32,
        memory_bytes=number,
        seconds_in_phase=seconds,
        cpu=cpu,
    )
    gateway = GatewayState(name, name, name, GatewayPhase.SILENT, seconds, 0, name, name, problem)
    about = stats(index=name, service=name, gateways=(gateway,), live_generation=name)
    assert max(map(len, lines_of(shown, about))) <= WIDTH


@given(names, st.integers(3, 60))
def test_what_does_not_fit_keeps_both_ends(text: str, width: int) -> None:
    short = fit(text, width)
    assert len(short) <= width
    if len(text) > width:
        head, _, tail = short.partition("…")
        assert text.startswith(head)
        assert text.endswith(tail)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.9, "59 s"), (61, "1 min"), (7300, "2 h"), (2e5, "2 d")]
)
def test_times_are_said_shortly(seconds: float, said: str) -> None:
    assert span(seconds) == said


class Backend:
    """Stands where a controller would."""

    def __init__(self) -> None:
        self.topology = topology(READY, READY)

    async def list_shards(self) -> Topology:
        return self.topology

    async def stats(self) -> Stats:
        return stats()


class Service:
    """An admin service over gRPC, which can go away and come back."""

    def __init__(self) -> None:
        self.backend, self._loop, self.port = Backend(), LoopThread(), 0
        self._server: grpc.aio.Server | None = None

    def start(self) -> None:
        self._loop.run(self._start())

    async def _start(self) -> None:
        self._server = grpc.aio.server()
        AdminServicer(self.backend).add_to(self._server)  # type: ignore[arg-type]  # only reads
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    def stop(self) -> None:
        assert self._server is not None
        self._loop.run(self._server.stop(0.0))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    service.start()
    yield service
    service.stop()
    service._loop.close()


def status(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", "status", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_shows_it_and_its_exit_code_says_whether_all_is_answered(
    service: Service,
) -> None:
    with status("--target", service.address) as run:
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out.splitlines()) == (0, lines_of(service.backend.topology, stats())), (
        err
    )
    service.backend.topology = topology(STARTING)
    with status("--target", service.address, "--json") as run:
        out, _ = run.communicate(timeout=60)
    report = json.loads(out)
    assert run.returncode == 1
    assert report["stats"]["queries"] == 18_201
    assert report["topology"]["generations"][0]["role"] == "live"
    assert len(report["problems"]) == 2


def test_watching_goes_on_while_the_service_is_away(service: Service) -> None:
    with (
        status("--target", service.address, "--watch", "--json") as run,
        ThreadPoolExecutor(1) as pool,
    ):
        assert run.stdout is not None

        def until(key: str) -> None:
            """Read reports until one has this key."""
            while key not in json.loads(pool.submit(run.stdout.readline).result(60)):
                pass

        until("stats")
        service.stop()
        until("error")
        service.start()
        until("stats")
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130


def test_a_service_that_does_not_answer_is_named() -> None:
    with status("--target", "127.0.0.1:1") as run:
        _, err = run.communicate(timeout=60)
    assert run.returncode != 0
    assert "127.0.0.1:1" in err


def test_an_interrupt_that_gets_lost_ends_watching_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a callback from native code, where KeyboardInterrupt goes no further."""

    def lose(_admin: object, *, as_json: bool) -> None:
        assert as_json
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)

    monkeypatch.setattr(cli_status, "_again", lose)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        cli_status.status_command("localhost:1", watch=True, as_json=True)
    assert signal.getsignal(signal.SIGINT) is before
