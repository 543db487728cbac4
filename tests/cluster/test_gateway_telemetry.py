"""A gateway and its shard servers at work: what its metrics and its logs say of real queries."""

from __future__ import annotations

import io
import json
import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_cluster import DIM, LocalCluster
from prometheus_client.parser import text_string_to_metric_families

from cluster.client import Client, RetryPolicy
from cluster.gateway import GatewayConfig
from cluster.security.api_keys import new_key
from cluster.telemetry.endpoint import MetricsAddress
from cluster.telemetry.logs import configure_logging
from cluster.telemetry.process import GatewayTelemetry, TelemetryConfig
from colbert_core.errors import InvalidInput, QueryError, Unavailable

ONCE = RetryPolicy(attempts=1)
QUERY = np.full((2, DIM), 0.1, np.float32)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The loggers as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level


class Watched:
    """A cluster whose gateway tells, what it logs, and what its `/metrics` shows."""

    def __init__(self, index: Path, gateway: GatewayConfig, **config: Any) -> None:
        settings = TelemetryConfig(MetricsAddress(0), "json", **config)
        settings.check()
        self.telemetry = GatewayTelemetry(settings)
        self._log = io.StringIO()
        configure_logging("json", self._log)
        self.cluster = LocalCluster(index, gateway=gateway, observer=self.telemetry, replicas=2)

        async def watch() -> None:
            self.telemetry.watch(self.cluster.gateway.snapshot)

        self.cluster.loop.run(watch())

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.close()
        self.telemetry.stop()

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the query log."""
        found = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in found if line["logger"] == "cluster.telemetry.query_log"]

    def log(self) -> str:
        return self._log.getvalue()

    def samples(self) -> dict[tuple[str, ...], float]:
        """What Prometheus would read: (name, values in the order of the labels' names…) → value."""
        url = f"http://{self.telemetry.metrics_address}/metrics"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=30.0) as answer:
            text = answer.read().decode()
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def test_metrics_of_real_queries(small_index: Path) -> None:
    with (
        Watched(small_index, GatewayConfig(port=0)) as watched,
        Client(watched.cluster.address, retry=ONCE) as client,
    ):
        before = watched.samples()
        answers = [client.search(QUERY, k=3, timings=True) for _ in range(4)]
        with pytest.raises(QueryError):
            client.search(QUERY, k=0)
        after = watched.samples()

        def grown(*key: str) -> float:
            return after.get(key, 0.0) - before.get(key, 0.0)

        shards = [timing.shard_id for timing in answers[0].shard_timings]
        assert grown("tartan_queries_total", "OK") == 4
        assert grown("tartan_queries_total", "INVALID_ARGUMENT") == 1
        assert grown("tartan_query_seconds_count") == 4
        assert grown("tartan_query_stage_seconds_count", "fan_out") == 4
        assert grown("tartan_passages_searched_total") == 4 * 150
        assert grown("tartan_passages_asked_total") == 4 * 150
        touched = sum(timing.touched for a in answers for timing in a.shard_timings)
        assert grown("tartan_query_touched_passages_sum") == touched > 0
        for shard in shards:
            assert grown("tartan_shard_calls_total", "search", "OK", shard) == 4
            assert grown("tartan_shard_call_seconds_count", "search", shard) == 4
            assert after["tartan_shard_replicas", shard, "up"] == 2
            assert after["tartan_shard_replicas", shard, "ejected"] == 0
        assert after["tartan_routing_table_version",] == 1
        assert after["tartan_queries_in_flight",] == 0
        assert after["tartan_live_generation_info", answers[0].generation] == 1


def test_what_the_caches_hold_and_how_often_they_help(small_index: Path) -> None:
    config = GatewayConfig(port=0, answer_cache_bytes=2**20)
    with Watched(small_index, config) as watched, Client(watched.cluster.address) as client:
        assert watched.samples()["tartan_cache_bytes", "answer"] == 0
        for _ in range(3):
            client.search(QUERY, k=3)
        after = watched.samples()
    assert after["tartan_cache_bytes", "answer"] > 0
    assert after["tartan_cache_lookups_total", "answer", "hit"] == 2
    assert after["tartan_cache_lookups_total", "answer", "miss"] == 1
    assert after["tartan_queries_total", "OK"] == 3


def test_a_shard_that_is_away_is_seen(small_index: Path) -> None:
    with (
        Watched(small_index, GatewayConfig(port=0)) as watched,
        Client(watched.cluster.address, retry=ONCE) as client,
    ):
        cluster = watched.cluster
        shard = cluster.routes[1].shard_id
        for server in cluster.servers[1]:
            server.stop(0.0)
        cluster.wait(lambda: not cluster.routes[1].reachable())
        with pytest.raises(Unavailable):
            client.search(QUERY)
        samples = watched.samples()
        assert samples["tartan_shard_replicas", shard, "up"] == 0
        assert samples["tartan_queries_total", "UNAVAILABLE"] == 1
        assert samples["tartan_shard_calls_total", "search", "Unavailable", shard] >= 1


def test_a_slow_query_is_one_line_with_its_shards(small_index: Path) -> None:
    with (
        Watched(small_index, GatewayConfig(port=0), slow_query_ms=0.0) as watched,
        Client(watched.cluster.address) as client,
    ):
        answer = client.search(QUERY, k=3)
        (line,) = watched.lines()
    assert line["message"] == "slow query"
    assert len(line["request_id"]) == 16
    assert line["generation"] == answer.generation
    assert line["params"]["k"] == line["k"] == 3
    assert line["coverage"]["shards"] == "3/3"
    searches = [call for call in line["shards"] if call["method"] == "search"]
    assert len({call["shard"] for call in searches}) == len(searches) == 3
    assert all(0 < call["search_ms"] <= call["ms"] <= line["total_ms"] for call in searches)
    assert {"encode", "probe", "fan_out", "merge", "fetch"} <= set(line["stages_ms"])


def test_each_query_of_a_batch_has_a_line_and_an_id_of_its_own(small_index: Path) -> None:
    with (
        Watched(small_index, GatewayConfig(port=0), slow_query_ms=0.0) as watched,
        Client(watched.cluster.address) as client,
    ):
        assert len(list(client.search_batch([QUERY] * 3, k=1))) == 3
        lines = watched.lines()
    heads, parts = zip(*(line["request_id"].split(".") for line in lines), strict=True)
    assert len(set(heads)) == 1
    assert sorted(parts) == ["0", "1", "2"]
    assert all(len(line["shards"]) >= 3 for line in lines)


def test_no_secret_and_no_text_is_ever_logged(small_index: Path, tmp_path: Path) -> None:
    line, key = new_key("notebook", "search")
    keys = tmp_path / "keys"
    keys.write_text(line.line() + "\n")
    config = GatewayConfig(port=0, api_keys=keys)
    with Watched(small_index, config, slow_query_ms=0.0) as watched:
        logging.getLogger("cluster").setLevel(logging.DEBUG)
        with Client(watched.cluster.address, api_key=key, retry=ONCE) as client:
            client.search(QUERY)
            with pytest.raises(QueryError):
                client.search(QUERY, filter='diagnosis = "confidential"')
            with pytest.raises(Exception, match="no model"):
                client.search("confidential words")
        text, (found, *_) = watched.log(), watched.lines()
    assert found["client"] == "notebook"
    assert key not in text
    assert key.rpartition(".")[2] not in text
    assert "confidential" not in text


def test_texts_are_logged_where_it_is_asked_for(small_index: Path) -> None:
    with (
        Watched(small_index, GatewayConfig(port=0), log_queries=True) as watched,
        Client(watched.cluster.address, retry=ONCE) as client,
    ):
        with pytest.raises(Exception, match="no model"):
            client.search("words to be read")
        (line,) = watched.lines()
    assert (line["text"], line["level"]) == ("words to be read", "INFO")
    assert line["status"] == "FAILED_PRECONDITION"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"log_format": "xml"}, "xml"), ({"slow_query_ms": -1.0}, "slow_query_ms is -1.0")],
)
def test_settings_that_are_none_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        TelemetryConfig(**changes).check()


def test_headers_for_a_collector_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer abc")
    config = TelemetryConfig()
    assert config.environment["OTEL_EXPORTER_OTLP_HEADERS"]
    assert "abc" not in repr(config)
