"""Ray on several nodes: an index is built by all of them, served from them, and survives one.

The nodes are real `ray start` processes of this machine, each with an address of its own in
127.0.0.0/8, so that an address that names the wrong node does not answer.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import descendants, first_line, tartan

from cluster.client import Client, RetryPolicy
from colbert_core.api import Index
from colbert_core.errors import Unavailable

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

TIMEOUT_S = 120.0
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")


@dataclass(frozen=True)
class Nodes:
    """A Ray cluster: its nodes' processes by address, and what a driver's environment is."""

    processes: dict[str, subprocess.Popen[bytes]]
    environment: dict[str, str]

    def shard_servers(self, address: str) -> list[int]:
        """Process ids of the shard servers on a node."""
        found = descendants(self.processes[address].pid)
        return [pid for pid, command in found.items() if command.startswith("ray::ShardServer")]

    def end(self, address: str) -> None:
        """Everything of a node dies at once, as if its machine had lost its power."""
        process = self.processes.pop(address)
        for pid in [process.pid, *descendants(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.wait(TIMEOUT_S)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """Three nodes with one CPU each, and a token that a driver has but was not told to use."""
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, for Ray's sockets
    names = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    nodes = Nodes({}, environment)
    try:
        head = start_node(nodes, folder, ADDRESSES[0], "--head", "--port=0", f"--temp-dir={folder}")
        environment["RAY_ADDRESS"] = said(folder, head, r"ray start --address='([0-9.:]+)'")
        for address in ADDRESSES[1:]:
            node = start_node(nodes, folder, address, f"--address={environment['RAY_ADDRESS']}")
            said(folder, node, "(Ray runtime started)")
        yield nodes
    finally:
        for address in list(nodes.processes):
            nodes.end(address)
        shutil.rmtree(folder)


def start_node(nodes: Nodes, folder: Path, address: str, *arguments: str) -> str:
    command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
    command += ["--block", "--num-cpus=1", "--object-store-memory=100000000", *arguments]
    command += [f"--node-ip-address={address}", "--dashboard-agent-listen-port=0"]
    environment = nodes.environment | {"RAY_AUTH_MODE": "token"}
    environment.pop("RAY_ADDRESS", None)
    with (folder / f"{address}.log").open("wb") as log:
        nodes.processes[address] = subprocess.Popen(
            command, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    return address


def said(folder: Path, address: str, pattern: str) -> str:
    """What a node said, once it has."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        text = (folder / f"{address}.log").read_text()
        if found := re.search(pattern, re.sub(r"\x1b\[\d+m", "", text)):
            return found[1]
        time.sleep(0.1)  # polling another process; there is no event to wait for
    raise AssertionError(f"node {address} did not say {pattern!r} but:\n{text}")


def build(nodes: Nodes, folder: Path) -> Path:
    """An index of two shards, built on all nodes."""
    records = [{"_id": str(i), "text": f"passage number {i}"} for i in range(60)]
    (folder / "corpus.jsonl").write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    arguments = [str(folder / "corpus.jsonl"), "--out", str(folder / "index"), "--shards", "2"]
    process = tartan("index", "build", *arguments, "--json", env=nodes.environment)
    report, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert json.loads(report)["workers"] == len(ADDRESSES)
    return folder / "index"


def fails(client: Client) -> str:
    """The error of the first search that fails."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        try:
            client.search("passage number 7")
        except Unavailable as error:
            return str(error)
        time.sleep(0.02)
    raise AssertionError("every search was answered")


def test_an_index_is_built_and_served_by_several_nodes_and_survives_one(
    nodes: Nodes, tmp_path: Path
) -> None:
    index = build(nodes, tmp_path)
    process = tartan("serve", str(index), "--port", "0", env=nodes.environment)
    try:
        check_serving(nodes, index, first_line(process).split()[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0


def check_serving(nodes: Nodes, index: Path, address: str) -> None:
    with (
        grpc.insecure_channel(address) as channel,
        Client(address, retry=RetryPolicy(attempts=1), timeout_s=30.0) as client,
    ):
        request = health_pb2.HealthCheckRequest(service="")
        watched: Any = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=TIMEOUT_S)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        wanted = client.search("passage number 7").hits
        assert list(wanted) == Index.open(index).search("passage number 7")
        holding = [node for node in ADDRESSES if nodes.shard_servers(node)]
        assert len(holding) == 2  # spread: one shard each
        lost = holding[-1]  # not the head, which knows the cluster
        nodes.end(lost)
        assert f"shard server {lost}:" in fails(client)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        assert client.search("passage number 7").hits == wanted
        assert sum(len(nodes.shard_servers(node)) for node in nodes.processes) == 2
