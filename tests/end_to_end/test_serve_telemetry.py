"""`tartan serve` on a Ray cluster tells what it does: its metrics, and Ray's; traces; logs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from processes import first_line, tartan
from prometheus_client.parser import text_string_to_metric_families

from cluster.client import Client
from cluster.client_health import health_of
from cluster.ray_session import RaySession
from colbert_core.api import Index

sys.path.append(str(Path(__file__).parents[1] / "cluster"))
from otlp_receiver import OtlpReceiver

TIMEOUT_S = 90.0
DIM, QUERIES = 32, 5


@dataclass
class Served:
    """A running service."""

    address: str
    metrics_port: int
    process: subprocess.Popen[str]
    log: Path
    receiver: OtlpReceiver


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def served(ray_cluster: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that has answered some queries."""
    rng = np.random.default_rng(3)
    folder = tmp_path_factory.mktemp("telemetry")
    index = folder / "index"
    vectors = [rng.standard_normal((6, DIM), dtype=np.float32) for _ in range(60)]
    Index.build(index, vectors, shards=2, centroids=16, normalize=True)
    receiver, port = OtlpReceiver(), free_port()
    environment = os.environ | {
        "RAY_ADDRESS": ray_cluster.address,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    log = folder / "log"
    options = ("--log-format", "json", "--slow-query-ms", "0", "--metrics-port", str(port))
    with log.open("w") as stderr:
        process = tartan(
            "serve", str(index), "--port", "0", *options, env=environment, stderr=stderr
        )
    try:
        address = first_line(process).split()[-1]
        with Client(address) as client:
            for _ in range(QUERIES):
                client.search(rng.standard_normal((4, DIM), dtype=np.float32), k=3)
        yield Served(address, port, process, log, receiver)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT_S)
        receiver.stop()


def samples_at(url: str) -> list[Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=30.0) as answer:
        text = answer.read().decode()
    return [s for family in text_string_to_metric_families(text) for s in family.samples]


def until(what: str, look: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not look():
        assert time.monotonic() < end, f"waited {TIMEOUT_S:.0f} s for {what}"
        time.sleep(0.2)


def test_the_gateways_own_metrics(served: Served) -> None:
    found = {
        (s.name, s.labels.get("code", "")): s.value
        for s in samples_at(f"http://127.0.0.1:{served.metrics_port}/metrics")
    }
    assert found["tartan_queries_total", "OK"] == QUERIES
    assert found["tartan_query_seconds_count", ""] == QUERIES


def test_rays_endpoint_has_gateway_and_shard_servers(served: Served) -> None:
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"

    def all_there() -> bool:
        counts = dict.fromkeys(("ray_tartan_queries_total", "ray_tartan_query_seconds_bucket"), 0.0)
        searches: dict[str, float] = {}
        for sample in samples_at(url):
            if sample.name == "ray_tartan_server_calls_total":
                if (sample.labels["method"], sample.labels["code"]) == ("Search", "OK"):
                    searches[sample.labels["shard"]] = sample.value
            elif sample.name in counts and sample.labels.get("le", "+Inf") == "+Inf":
                counts[sample.name] = sample.value
        # Warm-up queries reach shards, too, and are no client's.
        enough = len(searches) == 2 and min(searches.values()) >= QUERIES
        return enough and set(counts.values()) == {QUERIES}

    until("Ray's metrics", all_there)


def test_one_trace_from_gateway_to_shard_processes(served: Served) -> None:
    def whole() -> bool:
        spans = served.receiver.spans()
        roots = [s for _, s in spans if s.name == "tartan.v1.SearchService/Search"]
        searches = [
            (service, s.trace_id)
            for service, s in spans
            if s.name == "tartan.shard.v1.ShardService/Search"
        ]
        return len(roots) == QUERIES and all(
            searches.count(("tartan-shard", root.trace_id)) == 2 for root in roots
        )

    until("the spans of gateway and shard servers", whole)


def test_each_slow_query_is_a_line(served: Served) -> None:
    lines = [json.loads(line) for line in served.log.read_text().splitlines() if line[:1] == "{"]
    slow = [line for line in lines if line["message"] == "slow query"]
    assert len(slow) == QUERIES
    assert len({line["request_id"] for line in slow}) == QUERIES
    assert all(len(line["shards"]) >= 2 for line in slow)


def test_every_service_has_health(served: Served) -> None:
    services = ["", "tartan.v1.SearchService", "tartan.v1.AdminService"]
    assert health_of(served.address, services, {}) == dict.fromkeys(services, "SERVING")


def test_status_and_doctor_of_it(served: Served) -> None:
    for command in ("status", "doctor"):
        run = subprocess.run(
            [sys.executable, "-m", "cluster.cli", command, "--target", served.address, "--json"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        report = json.loads(run.stdout)
        if command == "status":
            (live,) = report["topology"]["generations"]
            assert [shard["replicas"][0]["phase"] for shard in live["shards"]] == ["ready"] * 2
            assert report["stats"]["gateways"][0]["address"] == served.address
            assert not report["problems"]
