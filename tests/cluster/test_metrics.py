"""Metrics: a table that keeps to conventions, events that are counted, an endpoint that shows."""

from __future__ import annotations

import math
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from telemetry_events import query, replica, shard_call

from cluster.observer import Observer
from cluster.security.tls import ServerTls
from cluster.telemetry.endpoint import MetricsAddress, MetricsEndpoint
from cluster.telemetry.gateway_metrics import GatewayMetrics
from cluster.telemetry.metric_table import METRICS, SECONDS
from cluster.telemetry.ray_bridge import Copier
from cluster.telemetry.registry import Registry
from cluster.wire.types import Coverage
from colbert_core.errors import AddressInUse, InvalidInput


def value(registry: Registry, name: str, **labels: str) -> float | None:
    return registry.collectors.get_sample_value(name, labels)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_and_labels_keep_the_conventions(metric: Any) -> None:
    assert re.fullmatch(r"(tartan|process)_[a-z][a-z_]*[a-z]", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|kb|mb|percent)(_|$)", metric.name)
    assert bool(metric.buckets) == (metric.kind == "histogram")
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.help.endswith(".")
    bounded = {"code", "stage", "shard", "method", "outcome", "state", "cache", "result"}
    assert set(metric.labels) <= bounded | {"reason", "generation", "version", "python", "kernels"}


def test_the_documentation_has_every_metric_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `((?:tartan|process)_\w+)` \| (\w+) \| ([^|]*) \| (.+) \|$", text, re.M)
    labels = {metric.name: ", ".join(metric.labels) for metric in METRICS}
    assert [(name, kind, given.strip(), help) for name, kind, given, help in rows] == [
        (metric.name, metric.kind, labels[metric.name], metric.help) for metric in METRICS
    ]


def test_names_are_unique() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_every_metric_of_the_table_can_be_made_as_it_says() -> None:
    registry = Registry()
    for metric in METRICS:
        if metric.name.startswith("tartan_") and "resident" not in metric.name:
            getattr(registry, metric.kind)(metric.name)
    shown = {family.name: family for family in registry.collectors.collect()}
    for metric in METRICS:
        family = shown[metric.name.removesuffix("_total")]
        assert family.type == metric.kind
        if metric.name.startswith("tartan_"):
            assert family.documentation == metric.help


@given(st.lists(st.floats(0, 20) | st.sampled_from([*SECONDS, math.inf]), max_size=20))
def test_histograms_count_as_prometheus_does(values: list[float]) -> None:
    ours, theirs = Registry(), CollectorRegistry()
    theirs_histogram = Histogram("tartan_query_seconds", "…", buckets=SECONDS, registry=theirs)
    for one in values:
        ours.histogram("tartan_query_seconds").observe(one)
        theirs_histogram.observe(one)
    ours.histogram("tartan_query_seconds")
    for bound in ("0.0001", "0.01", "1.0", "10.0", "+Inf"):
        name, labels = "tartan_query_seconds_bucket", {"le": bound}
        expected = theirs.get_sample_value(name, labels)
        assert ours.collectors.get_sample_value(name, labels) == expected
    name = "tartan_query_seconds_sum"
    assert ours.collectors.get_sample_value(name) == theirs.get_sample_value(name)


def test_the_wrong_kind_of_metric_is_a_bug_that_shows() -> None:
    with pytest.raises(AssertionError):
        Registry().gauge("tartan_queries_total")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def metrics(registry: Registry) -> GatewayMetrics:
    metrics = GatewayMetrics(registry)
    observer: Observer = metrics
    assert observer is metrics
    return metrics


def test_a_query_is_counted_with_its_stages(metrics: GatewayMetrics, registry: Registry) -> None:
    metrics.query_finished(query())
    assert value(registry, "tartan_queries_total", code="OK") == 1
    assert value(registry, "tartan_query_seconds_sum") == pytest.approx(0.0207)
    assert value(registry, "tartan_query_stage_seconds_sum", stage="encode") == 0.012
    assert value(registry, "tartan_query_stage_seconds_bucket", stage="probe", le="0.0005") == 1
    assert value(registry, "tartan_query_stage_seconds_bucket", stage="probe", le="0.00025") == 0
    assert value(registry, "tartan_query_touched_passages_sum") == 5_000
    assert value(registry, "tartan_query_scored_passages_sum") == 160
    assert value(registry, "tartan_passages_searched_total") == 100


def test_a_failed_query_counts_and_its_time_does_not(
    metrics: GatewayMetrics, registry: Registry
) -> None:
    metrics.query_finished(query(status="UNAVAILABLE", error="shard s0 …", coverage=None))
    assert value(registry, "tartan_queries_total", code="UNAVAILABLE") == 1
    assert value(registry, "tartan_query_seconds_count") == 0
    assert value(registry, "tartan_passages_asked_total") == 0


def test_a_partial_answer_shows_what_it_lacks(metrics: GatewayMetrics, registry: Registry) -> None:
    metrics.query_finished(query(coverage=Coverage(2, 1, 1, 0, 60, 100)))
    assert value(registry, "tartan_partial_answers_total") == 1
    assert value(registry, "tartan_passages_asked_total") == 100
    assert value(registry, "tartan_passages_searched_total") == 60


def test_a_cached_answer_touches_no_shard(metrics: GatewayMetrics, registry: Registry) -> None:
    metrics.query_finished(query(cached=True, stages_ms={}, coverage=None))
    assert value(registry, "tartan_query_seconds_count") == 1
    assert value(registry, "tartan_query_touched_passages_count") == 0


def test_attempts_are_counted_by_shard_and_outcome(
    metrics: GatewayMetrics, registry: Registry
) -> None:
    metrics.shard_call_finished(shard_call("s0"))
    metrics.shard_call_finished(shard_call("s0", status="Unavailable"))
    metrics.shard_call_finished(shard_call("s1", hedge=True))
    metrics.shard_call_finished(shard_call("s1", status="cancelled"))
    metrics.hedged(replica("s1"))
    metrics.retried(replica("s0"))
    metrics.ejected(replica("s0"))
    name = "tartan_shard_calls_total"
    assert value(registry, name, shard="s0", method="search", outcome="OK") == 1
    assert value(registry, name, shard="s0", method="search", outcome="Unavailable") == 1
    assert value(registry, name, shard="s1", method="search", outcome="cancelled") == 1
    seconds = "tartan_shard_call_seconds_count"
    assert value(registry, seconds, shard="s0", method="search") == 1
    assert value(registry, "tartan_shard_hedges_total", shard="s1") == 1
    assert value(registry, "tartan_shard_hedges_won_total", shard="s1") == 1
    assert value(registry, "tartan_shard_retries_total", shard="s0") == 1
    assert value(registry, "tartan_replica_ejections_total", shard="s0") == 1


def test_shards_of_a_generation_that_is_gone_are_forgotten(
    metrics: GatewayMetrics, registry: Registry
) -> None:
    """Else every nightly rebuild would leave its shards in the metrics for good."""
    for number in range(1, 5):
        generation = f"g{number}"
        metrics.generation_live(generation)
        for shard in ("kept", f"only-{generation}"):  # delta shards: the base stays
            metrics.shard_call_finished(shard_call(shard, generation=generation))
    shards = {
        sample.labels["shard"]
        for family in registry.collectors.collect()
        for sample in family.samples
        if "shard" in sample.labels
    }
    assert shards == {"kept", "only-g3", "only-g4"}
    name = "tartan_shard_calls_total"
    assert value(registry, name, shard="kept", method="search", outcome="OK") == 4
    assert value(registry, "tartan_live_generation_info", generation="g4") == 1
    assert value(registry, "tartan_live_generation_info", generation="g3") is None
    assert value(registry, "tartan_generation_switches_total") == 3


@pytest.fixture
def endpoint(metrics: GatewayMetrics, registry: Registry) -> Iterator[MetricsEndpoint]:
    metrics.query_finished(query())
    shown = MetricsEndpoint(MetricsAddress(0), registry.collectors)
    yield shown
    shown.stop()


def get(url: str, context: ssl.SSLContext | None = None) -> str:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    with opener.open(url, timeout=20.0) as answer:
        return answer.read().decode()


def test_the_endpoint_shows_what_prometheus_can_read(endpoint: MetricsEndpoint) -> None:
    text = get(f"http://{endpoint.address}/metrics")
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["tartan_queries"].samples[0].value == 1
    assert families["process_resident_memory_bytes"].samples[0].value > 10**7
    assert families["tartan_resident_anonymous_bytes"].samples[0].value > 10**6
    assert not [name for name in families if name.endswith("_created")]


def test_the_endpoint_is_on_loopback_and_shows_nothing_else(endpoint: MetricsEndpoint) -> None:
    assert endpoint.address.startswith("127.0.0.1:")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(f"http://{endpoint.address}/")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127.0.0.1:{port}.*--metrics-port"):
            MetricsEndpoint(MetricsAddress(port), CollectorRegistry())


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInput, match="70000"):
        MetricsAddress(70_000).check()


def test_with_certificates_metrics_are_shown_to_who_has_one(
    tmp_path: Path, registry: Registry
) -> None:
    authority = Authority(tmp_path / "ours", "ours")
    server, client = authority.sign("server"), authority.sign("client")
    tls = ServerTls(server.cert, server.key, authority.ca)
    shown = MetricsEndpoint(MetricsAddress(0, tls=tls), registry.collectors)
    url = f"https://{shown.address}/metrics"
    trusting = ssl.create_default_context(cafile=str(authority.ca))
    try:
        with pytest.raises((urllib.error.URLError, ssl.SSLError, OSError)):
            get(url, trusting)
        trusting.load_cert_chain(client.cert, client.key)
        assert "tartan_build_info" in get(url, trusting)
        with pytest.raises((urllib.error.URLError, OSError)):
            get(url.replace("https", "http"))
    finally:
        shown.stop()


class Noted:
    """In the place of an instrument of `ray.util.metrics`."""

    def __init__(self, name: str, help: str, labels: tuple[str, ...]) -> None:
        self.values: list[tuple[float, dict[str, str]]] = []
        MADE[name] = self

    def note(self, value: float, labels: dict[str, str]) -> None:
        self.values.append((value, dict(labels)))

    inc = set = note


MADE: dict[str, Noted] = {}


def test_what_is_handed_to_ray_are_growths_and_values(
    metrics: GatewayMetrics, registry: Registry
) -> None:
    MADE.clear()
    copier = Copier(Noted, Noted)
    metrics.query_finished(query())
    copier.copy(registry.collectors)
    copier.copy(registry.collectors)
    metrics.query_finished(query())
    metrics.query_finished(query())
    copier.copy(registry.collectors)
    assert MADE["tartan_queries_total"].values == [(1, {"code": "OK"}), (2, {"code": "OK"})]
    assert [v for v, _ in MADE["tartan_query_seconds_count"].values] == [1, 1, 3]
    under = [
        v for v, labels in MADE["tartan_query_seconds_bucket"].values if labels["le"] == "0.025"
    ]
    assert under == [1, 1, 3]
