"""Traces as a collector gets them: one tree from the caller's span down to each shard's search."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from local_cluster import DIM, LocalCluster
from otlp_receiver import OtlpReceiver

from cluster.telemetry import spans
from cluster.telemetry.call_spans import ShardSpans, TracedTransport, gateway_interceptors
from cluster.telemetry.spans import span, start_tracing, stop_tracing, wants_traces
from cluster.wire.request_context import REQUEST_ID_KEY, begin_request
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from colbert_core.errors import InvalidInput
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

TIMEOUT_S = 30.0
CALLER_TRACE, CALLER_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = ("traceparent", f"00-{CALLER_TRACE}-{CALLER_SPAN}-01")
GATEWAY, SHARD = "tartan.v1.SearchService/Search", "tartan.shard.v1.ShardService"
ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        (ON, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_SERVICE_NAME": "search"}, False),
        (ON | {"OTEL_SDK_DISABLED": "True"}, False),
        (ON | {"OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_standard_variables_decide(environment: dict[str, str], wanted: bool) -> None:
    assert wants_traces(environment) is wanted


def test_off_costs_nothing_and_loads_nothing() -> None:
    code = (
        "import sys; from cluster.telemetry.spans import *; from cluster.telemetry.call_spans "
        "import *; assert not start_tracing('x', {}); assert span('a') is span('b'); "
        "assert gateway_interceptors() == []; assert traced(print) is print; "
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_protocol_that_is_not_spoken_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"http/protobuf.*4317"):
        start_tracing("tartan", ON | {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
    assert not spans.tracing()


def test_without_the_packages_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.grpc.trace_exporter", None)
    with pytest.raises(InvalidInput, match=r"tartan-search\[otel\]"):
        start_tracing("tartan", ON)


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A collector that this process exports to, while the test runs."""
    receiver = OtlpReceiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    assert start_tracing("tartan-test")
    yield receiver
    stop_tracing()
    receiver.stop()


@pytest.fixture
def cluster(receiver: OtlpReceiver, small_index: Path) -> Iterator[LocalCluster]:
    """A cluster whose shard servers and gateway trace, as `tartan serve` makes them."""
    with LocalCluster(small_index) as cluster:
        generation = cluster.generation.manifest.generation
        for number, (servers, route) in enumerate(
            zip(cluster.servers, cluster.routes, strict=True)
        ):
            servers[0].stop(0.0)
            held = HeldShard.open(small_index, generation, route.shard_id)
            servers[0] = ShardServer(held, interceptors=[ShardSpans(route.shard_id)])
            servers[0].start()
            cluster.route_to(number, servers[0].address)
            assert isinstance(route.replicas[0].transport, TracedTransport)
        assert spans._provider.force_flush()
        receiver.forget()  # the gateway's own first query
        yield cluster


def search(
    cluster: LocalCluster, *metadata: tuple[str, str], k: int = 2, explain: bool = False
) -> None:
    data = np.full((2, DIM), 0.1, np.float32).tobytes()
    vectors = search_pb2.Matrix(data=data, rows=2, dim=DIM)
    with grpc.insecure_channel(cluster.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        stub.Search(
            search_pb2.SearchRequest(vectors=vectors, k=k, explain=explain),
            metadata=metadata,
            timeout=TIMEOUT_S,
        )


def exported(receiver: OtlpReceiver, root: str = GATEWAY) -> list[Any]:
    """The spans that were sent, once that of the whole call is there: of a call that was aborted it
    ends after the caller was told."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        assert spans._provider.force_flush()
        found = [span for _, span in receiver.spans()]
        if root in {span.name for span in found}:
            return found
        assert time.monotonic() < end, f"waited for {root}, and have {found}"
        time.sleep(0.01)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_one_tree_from_the_caller_to_each_shards_search(
    cluster: LocalCluster, receiver: OtlpReceiver
) -> None:
    # what is explained is always fetched
    search(cluster, TRACEPARENT, (REQUEST_ID_KEY, "one"), explain=True)
    found = exported(receiver)
    assert {span.trace_id.hex() for span in found} == {CALLER_TRACE}
    by_id = {span.span_id: span for span in found}
    parents = [
        (span.name, by_id[span.parent_span_id].name if span.parent_span_id in by_id else None)
        for span in found
    ]
    assert (GATEWAY, None) in parents
    for stage in ("encode", "probe", "fan_out", "merge", "fetch"):
        assert parents.count((stage, GATEWAY)) == 1, stage
    assert parents.count(("shard search", "fan_out")) == 3
    assert parents.count((f"{SHARD}/Search", "shard search")) == 3
    fetches = parents.count(("shard fetch", "fetch"))
    assert fetches == parents.count((f"{SHARD}/Fetch", "shard fetch")) > 0
    root = next(span for span in found if span.name == GATEWAY)
    assert root.parent_span_id.hex() == CALLER_SPAN
    assert attributes(root)["tartan.request_id"] == "one"
    searched = [attributes(span) for span in found if span.name == f"{SHARD}/Search"]
    assert {about["tartan.shard"] for about in searched} == {r.shard_id for r in cluster.routes}
    assert all(about["tartan.touched"] > 0 for about in searched)
    assert {about["tartan.request_id"] for about in searched} == {"one"}
    assert {service for service, _ in receiver.spans()} == {"tartan-test"}


def test_without_a_callers_trace_each_query_begins_one(
    cluster: LocalCluster, receiver: OtlpReceiver
) -> None:
    search(cluster)
    search(cluster)
    found = exported(receiver)
    roots = [span for span in found if not span.parent_span_id]
    assert [span.name for span in roots] == [GATEWAY] * 2
    assert len({span.trace_id for span in found}) == 2


def test_a_refused_query_is_an_error_that_repeats_nothing(
    cluster: LocalCluster, receiver: OtlpReceiver
) -> None:
    with pytest.raises(grpc.RpcError):
        search(cluster, k=0)
    (root,) = exported(receiver)
    assert root.status.code == 2
    assert root.status.message == "INVALID_ARGUMENT"
    assert attributes(root)["rpc.grpc.status_code"] == 3
    assert not root.events


def test_a_shard_that_is_away_is_seen_in_the_trace(
    cluster: LocalCluster, receiver: OtlpReceiver
) -> None:
    cluster.servers[1][0].stop(0.0)
    with pytest.raises(grpc.RpcError):
        search(cluster)
    found = exported(receiver)
    (failed,) = [
        span
        for span in found
        if span.name == "shard search" and span.status.message == "Unavailable"
    ]
    assert attributes(failed)["tartan.shard"] == cluster.routes[1].shard_id


def test_the_answer_does_not_depend_on_the_collector(
    cluster: LocalCluster, receiver: OtlpReceiver
) -> None:
    receiver.stop()
    search(cluster)


def test_a_span_ends_as_an_error_of_its_class_alone(receiver: OtlpReceiver) -> None:
    def work() -> None:
        begin_request(())
        with pytest.raises(ValueError), span("encode"):
            raise ValueError("what was asked")

    copy_context().run(work)
    (found,) = exported(receiver, "encode")
    assert (found.status.code, found.status.message) == (2, "ValueError")


def test_the_gateway_is_made_with_spans_only_where_traces_are_on(receiver: OtlpReceiver) -> None:
    assert len(gateway_interceptors()) == 1
    stop_tracing()
    assert gateway_interceptors() == []
