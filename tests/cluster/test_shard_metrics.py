"""What a shard server counts of its calls; health of each shard, there and on the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from local_cluster import DIM, LocalCluster, LoopThread, unit_vectors

from cluster.telemetry.registry import Registry
from cluster.telemetry.shard_metrics import ShardMetrics
from cluster.wire.shard_channel import ShardChannel
from cluster.wire.types import FetchQuery, ShardQuery
from colbert_core.errors import IndexMissing, NotAuthenticated
from colbert_core.index import open_generation
from workers.held_shard import HeldShard
from workers.shard_server import SERVICE, ShardServer

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def counted(small_index: Path) -> Iterator[tuple[Registry, ShardServer, HeldShard]]:
    manifest = open_generation(small_index, shards=()).manifest
    held = HeldShard.open(small_index, manifest.generation, manifest.shards[1].id)
    registry = Registry()
    metrics = ShardMetrics(registry, held.identity, held.mapped_bytes, lambda: held.copied_bytes)
    server = ShardServer(held, threads=2, token="right", interceptors=[metrics])
    server.start()
    yield registry, server, held
    server.stop(0.0)


def ask(server: ShardServer, held: HeldShard, *, token: str = "right", **changes: Any) -> Any:
    """A search that scores every passage, and the passage that it found."""
    query_LD = unit_vectors(np.random.default_rng(1), 3, DIM)
    query = ShardQuery(
        changes.get("generation", held.generation), query_LD, None, None, 1, 1, 1, exact=True
    )

    async def both() -> Any:
        channel = ShardChannel(server.address, held.identity.shard_id, token)
        try:
            answer = await channel.search(query, TIMEOUT_S)
            pids = answer.top.pids_K[:1]
            fetch = FetchQuery(held.generation, pids, with_text=True, with_metadata=False)
            return answer, await channel.fetch(fetch, TIMEOUT_S)
        finally:
            await channel.close()

    loop = LoopThread()
    try:
        return loop.run(both())
    finally:
        loop.close()


def test_searches_and_fetches_are_counted(counted: Any) -> None:
    registry, server, held = counted
    shard = held.identity.shard_id

    def value(name: str, **labels: str) -> float:
        found = registry.collectors.get_sample_value(name, {"shard": shard, **labels})
        return 0.0 if found is None else found

    calls = "tartan_server_calls_total"
    before = value(calls, method="Search", code="OK")
    answer, _ = ask(server, held)
    assert value(calls, method="Search", code="OK") == before + 1
    assert value(calls, method="Fetch", code="OK") == before + 1
    assert value("tartan_server_scored_passages_sum") >= answer.top.scored > 0
    assert 0 < value("tartan_server_search_seconds_sum") < TIMEOUT_S
    assert value("tartan_server_fetch_seconds_count") == before + 1
    assert 0 < value("tartan_server_queue_seconds_sum") < TIMEOUT_S
    assert value("tartan_server_calls_in_flight") == 0
    assert value("tartan_server_passages") == held.identity.passages
    with pytest.raises(IndexMissing):
        ask(server, held, generation="another")
    assert value(calls, method="Search", code="NOT_FOUND") == 1
    with pytest.raises(NotAuthenticated):
        ask(server, held, token="wrong")
    assert value(calls, method="Search", code="UNAUTHENTICATED") == 0  # it never became a search


def test_what_is_mapped_is_the_shards_files(counted: Any, small_index: Path) -> None:
    _, _, held = counted
    folder = small_index / "shards" / held.identity.shard_id
    assert held.mapped_bytes == sum(file.stat().st_size for file in folder.iterdir()) > 0


def test_what_is_copied_into_memory_is_told_at_each_scrape(counted: Any) -> None:
    registry, _, held = counted
    labels = {"shard": held.identity.shard_id}
    told = registry.collectors.get_sample_value("tartan_server_copied_bytes", labels)
    assert told == held.copied_bytes > 0


def health_of(address: str, service: str) -> int:
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        stub = health_pb2_grpc.HealthStub(channel)
        return int(stub.Check(request, timeout=TIMEOUT_S).status)


def test_a_shard_server_has_health_under_its_shards_name(counted: Any) -> None:
    _, server, held = counted
    shard = held.identity.shard_id
    assert {health_of(server.address, f"{SERVICE}/{shard}"), health_of(server.address, "")} == {
        SERVING
    }
    with pytest.raises(grpc.RpcError) as raised:
        health_of(server.address, f"{SERVICE}/another")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_gateway_says_which_shard_is_away(small_index: Path) -> None:
    with LocalCluster(small_index) as cluster:
        names = [f"{SERVICE}/{shard.id}" for shard in cluster.generation.manifest.shards]
        with grpc.insecure_channel(cluster.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            watched = [
                stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S)
                for name in names
            ]
            for stream in watched:
                assert any(answer.status == SERVING for answer in stream)
            cluster.servers[1][0].stop(0.0)
            assert next(watched[1]).status == NOT_SERVING
            assert [health_of(cluster.address, name) for name in names] == [
                SERVING,
                NOT_SERVING,
                SERVING,
            ]
            for stream in watched:
                stream.cancel()
