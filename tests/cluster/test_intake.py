"""Calls that never send their request, watchers without end: others are answered all the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from local_cluster import DIM, LocalCluster

from cluster import gateway_intake
from cluster.client import Client, RetryPolicy
from cluster.gateway import GatewayConfig

QUERY = np.full((2, DIM), 0.1, np.float32)
ON_ONE_CONNECTION = 200
TIMEOUT_S = 60.0
SEARCH = "/tartan.v1.SearchService/Search"
CHECK = "/grpc.health.v1.Health/Check"


@contextmanager
def connections(address: str, count: int) -> Iterator[list[grpc.Channel]]:
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=own) for _ in range(count)]
    try:
        yield channels
    finally:
        for channel in channels:
            channel.close()


def half_open(channel: grpc.Channel, method: str, end: threading.Event) -> Any:
    """A call whose request does not come before `end`."""

    def never() -> Iterator[bytes]:
        end.wait(TIMEOUT_S)
        yield from ()

    return channel.stream_unary(method).future(never())


def searches(address: str) -> int:
    with Client(address, retry=RetryPolicy(attempts=1), timeout_s=30.0) as client:
        return len(client.search(QUERY, k=3).hits)


def test_calls_without_a_request_take_nobodys_place(
    small_index: Path,
) -> None:
    end = threading.Event()
    config = GatewayConfig(port=0, max_concurrent=4)
    with (
        LocalCluster(small_index, gateway=config) as cluster,
        connections(cluster.address, 2) as channels,
    ):
        calls = [
            half_open(channel, method, end)
            for channel in channels
            for method in (SEARCH, CHECK) * (ON_ONE_CONNECTION // 2)
        ]
        try:
            assert searches(cluster.address) == 3
            assert not any(call.done() for call in calls)
        finally:
            end.set()
        assert {call.code() for call in calls} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert "without a request" in calls[0].details()


def test_a_request_has_a_time_to_arrive_in(
    small_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_intake, "ARRIVAL_TIMEOUT_S", 0.5)
    end = threading.Event()
    with (
        LocalCluster(small_index) as cluster,
        connections(cluster.address, 1) as [channel],
    ):
        call = half_open(channel, SEARCH, end)
        try:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # waits for it
            assert "no whole request arrived in 0.5 s" in call.details()
        finally:
            end.set()
        assert searches(cluster.address) == 3


def test_watchers_of_health_are_bounded_by_themselves(
    small_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_intake, "MAX_WATCHERS", 3)
    config = GatewayConfig(port=0, max_concurrent=1)
    with (
        LocalCluster(small_index, gateway=config) as cluster,
        connections(cluster.address, 1) as [channel],
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="")
        watching = [stub.Watch(request, timeout=TIMEOUT_S) for _ in range(3)]
        for stream in watching:
            next(stream)
        with pytest.raises(grpc.RpcError) as caught:
            next(stub.Watch(request, timeout=TIMEOUT_S))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "watchers of health" in caught.value.details()
        assert searches(cluster.address) == 3
        watching[0].cancel()
