"""Health follows the shards: NOT_SERVING while one has no server that can be reached."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from local_cluster import LocalCluster

from cluster.cli_health import check_health
from colbert_core.errors import Unavailable
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "tartan.v1.SearchService")
TIMEOUT_S = 60.0


@contextmanager
def watching(cluster: LocalCluster, service: str) -> Iterator[Iterator[int]]:
    """What `Watch` streams; the first that is given is SERVING."""
    with grpc.insecure_channel(cluster.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stream = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=TIMEOUT_S)
        statuses = (response.status for response in stream)
        if (first := next(statuses)) == NOT_SERVING:  # the servers are being connected to
            first = next(statuses)
        assert first == SERVING
        yield statuses
        stream.cancel()


def check(cluster: LocalCluster) -> set[int]:
    """What `Check` says of either name."""
    with grpc.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        requests = [health_pb2.HealthCheckRequest(service=service) for service in SERVICES]
        return {stub.Check(request, timeout=TIMEOUT_S).status for request in requests}


@pytest.mark.parametrize("service", SERVICES)
def test_a_shard_that_is_away_is_shown_until_it_is_back(small_index: Path, service: str) -> None:
    with LocalCluster(small_index) as cluster, watching(cluster, service) as statuses:
        assert check(cluster) == {SERVING}
        cluster.servers[1][0].stop(0.0)
        assert next(statuses) == NOT_SERVING
        assert check(cluster) == {NOT_SERVING}
        generation, route = cluster.generation.manifest.generation, cluster.routes[1]
        fresh = ShardServer(HeldShard.open(small_index, generation, route.shard_id))
        cluster.servers[1][0] = fresh
        fresh.start()
        cluster.route_to(1, fresh.address)
        assert next(statuses) == SERVING
        assert check(cluster) == {SERVING}


def test_one_replica_of_each_shard_is_enough(small_index: Path) -> None:
    with LocalCluster(small_index, replicas=2) as cluster, watching(cluster, "") as statuses:
        cluster.servers[0][0].stop(0.0)
        cluster.servers[2][1].stop(0.0)
        cluster.servers[1][0].stop(0.0)
        cluster.servers[1][1].stop(0.0)  # the last of its shard, and the first to be shown
        assert next(statuses) == NOT_SERVING
        assert [route.reachable() for route in cluster.routes] == [True, False, True]
        with pytest.raises(Unavailable, match="NOT_SERVING"):
            check_health(cluster.address, "", TIMEOUT_S, {})


HANGING = """
import sys, time
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer
server = ShardServer(HeldShard.open(*sys.argv[1:]))
server.start()
print(server.address, flush=True)
time.sleep(600)
"""


@pytest.fixture
def hanging(small_index: Path) -> Iterator[tuple[LocalCluster, subprocess.Popen[str]]]:
    """A cluster whose second shard is served by a process of its own, which can be paused."""
    with LocalCluster(small_index) as cluster:
        generation, route = cluster.generation.manifest.generation, cluster.routes[1]
        process = subprocess.Popen(
            [sys.executable, "-c", HANGING, str(small_index), generation, route.shard_id],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            cluster.route_to(1, process.stdout.readline().strip())
            cluster.wait(route.reachable)
            yield cluster, process
        finally:
            process.kill()
            process.wait()


@pytest.mark.long
def test_a_server_that_hangs_is_shown_without_any_query(
    hanging: tuple[LocalCluster, subprocess.Popen[str]],
) -> None:
    cluster, process = hanging
    with watching(cluster, "") as statuses:
        process.send_signal(signal.SIGSTOP)
        assert next(statuses) == NOT_SERVING
        process.send_signal(signal.SIGCONT)
        assert next(statuses) == SERVING


def test_a_gateway_that_stops_says_so_whatever_its_shards_do(small_index: Path) -> None:
    cluster = LocalCluster(small_index)
    with watching(cluster, "") as statuses, ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(cluster.loop.run, cluster.gateway.stop(5.0))
        assert next(statuses) == NOT_SERVING
        stopping.result(TIMEOUT_S)
    cluster.close()
