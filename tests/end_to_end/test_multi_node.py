"""Ray on several nodes: an index is built by all of them, served from them, and survives one."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import first_line, listening_ports, tartan
from ray_nodes import ADDRESSES, TIMEOUT_S, Nodes, free_port, ray_nodes
from served_generations import Generations

from cluster.client import Client, RetryPolicy
from cluster.wire.inner_tls import SHARD_NAME
from colbert_core.api import Index
from colbert_core.errors import Unavailable

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ray_nodes() as started:
        yield started


def build(nodes: Nodes, folder: Path) -> Path:
    """An index of two shards, built on all nodes."""
    records = [{"_id": str(i), "text": f"passage number {i}"} for i in range(60)]
    (folder / "corpus.jsonl").write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    arguments = [str(folder / "corpus.jsonl"), "--out", str(folder / "index"), "--shards", "2"]
    arguments += ["--min-workers", str(len(ADDRESSES))]
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


def certificates_shown(host: str, ports: set[int]) -> list[str]:
    """Who the ports that speak TLS say that they are."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    names = []
    for port in ports:
        with (
            contextlib.suppress(ssl.SSLError, OSError),  # Ray's own, in clear text
            socket.create_connection((host, port), timeout=10) as raw,
            context.wrap_socket(raw) as connection,
        ):
            shown = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
            names.append(shown.subject.rfc4514_string().removeprefix("CN="))
    return names


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
        holding = [node for node in ADDRESSES if nodes.actors(node, "ShardServer")]
        assert len(holding) == 2  # spread: one shard each
        for node in holding:
            [server] = nodes.actors(node, "ShardServer")
            assert SHARD_NAME in certificates_shown(node, listening_ports(server))
        lost = holding[-1]  # not the head, which knows the cluster
        nodes.end(lost)
        assert f"shard server {lost}:" in fails(client)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        assert client.search("passage number 7").hits == wanted
        assert sum(len(nodes.actors(node, "ShardServer")) for node in nodes.processes) == 2


def test_a_service_outlives_its_command_and_is_taken_over(nodes: Nodes, tmp_path: Path) -> None:
    generations = Generations(tmp_path / "index", 1)
    serve = ("serve", str(generations.path), "--gateways", "2", "--port", str(free_port()))
    killed = tartan(*serve, env=nodes.environment)
    addresses = first_line(killed).rpartition(" at ")[2].strip().split(", ")
    servers = {pid for node in ADDRESSES for pid in nodes.actors(node, "ShardServer")}
    assert len(servers) == 2
    query = generations.queries[0]
    with Client(addresses[1], timeout_s=30.0) as client:
        wanted = client.search(query).hits
        killed.kill()
        killed.wait(TIMEOUT_S)
        assert client.search(query).hits == wanted
        process = tartan(*serve, env=nodes.environment)
        assert first_line(process).rpartition(" at ")[2].strip().split(", ") == addresses
        assert client.search(query).hits == wanted
        refused = tartan(*serve[:-2], "--port", "0", env=nodes.environment, stderr=subprocess.PIPE)
        _, complaint = refused.communicate(timeout=TIMEOUT_S)
        assert refused.returncode == 6
        assert "--name" in complaint
    with Client(addresses[0], timeout_s=30.0) as client:
        assert client.search(query).hits == wanted
    assert {pid for node in ADDRESSES for pid in nodes.actors(node, "ShardServer")} == servers
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0
    end = time.monotonic() + TIMEOUT_S
    kinds = ("ShardServer", "GatewayActor", "ControllerActor")
    while left := [pid for node in ADDRESSES for kind in kinds for pid in nodes.actors(node, kind)]:
        assert time.monotonic() < end, left
        time.sleep(0.1)  # they are not our children: nothing to wait on
