"""`tartan serve` as users run it: a process of its own, with its own Ray, asked over gRPC."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import START_TIMEOUT_S, descendants, first_line, is_running, tartan

from cluster.client import Client, RetryPolicy
from colbert_core.api import Index
from colbert_core.errors import Unavailable

STOP_TIMEOUT_S = 60.0
RECOVERY_TIMEOUT_S = 60.0
DIM = 32


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 passages in 2 shards, built from vectors."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("serve") / "index"
    vectors = [rng.standard_normal((6, DIM), dtype=np.float32) for _ in range(60)]
    Index.build(path, vectors, shards=2, centroids=16, normalize=True)
    return path


@pytest.fixture(scope="module")
def serving(index: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The running process and the line that it printed."""
    process = tartan("serve", str(index), "--port", "0")
    line = first_line(process)
    try:
        yield process, line
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT_S)


def test_one_line_says_what_is_served_and_where(serving: Any, index: Path) -> None:
    _, line = serving
    head = f"tartan: serving {index} (2 shards × 1 replica, 60 passages) at 127.0.0.1:"
    assert line.startswith(head)


def test_hits_are_those_of_one_process(serving: Any, index: Path) -> None:
    opened = Index.open(index)
    rng = np.random.default_rng(9)
    with Client(serving[1].split()[-1]) as client:
        for _ in range(5):
            query = rng.standard_normal((4, DIM), dtype=np.float32)
            assert list(client.search(query, k=7).hits) == opened.search(query, k=7)


def test_a_killed_shard_server_is_named_shown_by_health_and_comes_back(serving: Any) -> None:
    process, line = serving
    address = line.split()[-1]
    query = np.ones((2, DIM), np.float32)
    with (
        grpc.insecure_channel(address) as channel,
        Client(address, retry=RetryPolicy(attempts=1), timeout_s=60.0) as client,
    ):
        request = health_pb2.HealthCheckRequest(service="")
        watched = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=RECOVERY_TIMEOUT_S)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        wanted = client.search(query).hits
        servers = [
            pid
            for pid, command in descendants(process.pid).items()
            if command.startswith("ray::ShardServerActor")
        ]
        assert len(servers) == 2
        os.kill(servers[0], signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"shard \S+ \([12] of 2\) does not answer"):
            ask_until_it_fails(client, query)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        assert client.search(query).hits == wanted


def ask_until_it_fails(client: Client, query: Any) -> None:
    """Ask until an error comes, which is raised."""
    end = time.monotonic() + RECOVERY_TIMEOUT_S
    while time.monotonic() < end:
        client.search(query)
        time.sleep(0.02)  # polling another process; there is no event to wait for


def test_sigterm_stops_everything_with_exit_code_0(serving: Any) -> None:
    """The last test of this module: it ends the server that the others used."""
    process, _ = serving
    started = descendants(process.pid)
    assert started
    process.send_signal(signal.SIGTERM)
    assert process.wait(STOP_TIMEOUT_S) == 0
    assert process.stdout is not None
    assert process.stdout.read() == ""  # one line, and no other
    assert not left_of(started)


def left_of(started: dict[int, str]) -> list[int]:
    """Which of the processes still run after a while."""
    end = time.monotonic() + STOP_TIMEOUT_S
    while (left := [pid for pid in started if is_running(pid)]) and time.monotonic() < end:
        time.sleep(0.05)  # they are not our children: nothing to wait on
    return left


def test_sigterm_to_all_processes_at_once_is_a_clean_stop_too(index: Path) -> None:
    """As systemd stops a unit unless it is told otherwise: Ray gets the signal as well."""
    process = tartan("serve", str(index), "--port", "0", stderr=subprocess.PIPE)
    first_line(process)
    started = descendants(process.pid)
    for pid in (process.pid, *started):
        os.kill(pid, signal.SIGTERM)
    _, told = process.communicate(timeout=STOP_TIMEOUT_S)
    assert process.returncode == 0, told
    assert "Ray was ended too" in told
    assert not left_of(started)


def test_a_taken_port_ends_at_once_with_a_code_of_its_own(index: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = tartan("serve", str(index), "--port", str(port), stderr=subprocess.PIPE)
        _, complaint = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 10
    assert f"127.0.0.1:{port}" in complaint
    assert "--port" in complaint


def test_no_index_ends_at_once_and_says_how_to_build_one(tmp_path: Path) -> None:
    process = tartan("serve", str(tmp_path / "nothing"), stderr=subprocess.PIPE)
    _, complaint = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode == 5
    assert "tartan index build" in complaint
