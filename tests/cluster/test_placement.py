"""Which node a new shard server prefers; and how an operator's places are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.cli_rollout import split_place
from cluster.controller.gateways import GatewaySettings, of_number
from cluster.controller.placement import NODE, NodeRoom, choose_node, options_for
from cluster.gateway import GatewayConfig
from cluster.telemetry.endpoint import MetricsAddress
from cluster.telemetry.process import TelemetryConfig

NODES = [NodeRoom("a", 4.0, 0.0), NodeRoom("b", 1.0, 0.0), NodeRoom("c", 0.0, 0.0)]


def test_a_node_with_room_without_the_shard_and_with_the_fewest_servers() -> None:
    assert choose_node(NODES, (), {}, 1.0, 0.0) == "a"
    assert choose_node(NODES, {"a"}, {}, 1.0, 0.0) == "b"
    assert choose_node(NODES, (), {"a": 2, "b": 1}, 1.0, 0.0) == "b"
    assert choose_node(NODES, {"a", "b"}, {}, 1.0, 0.0) is None
    assert choose_node(NODES, {"a", "b"}, {}, 0.0, 0.0) == "c"
    assert choose_node(NODES, (), {}, 1.0, 0.5) is None


@given(st.integers(1, 6), st.integers(1, 6))
def test_replicas_are_on_different_nodes_where_there_are_enough(nodes: int, replicas: int) -> None:
    rooms = [NodeRoom(f"n{number}", 8.0, 0.0) for number in range(nodes)]
    taken: list[str] = []
    for _ in range(replicas):
        chosen = choose_node(rooms, taken, {}, 1.0, 0.0)
        if chosen is not None:
            taken.append(chosen)
    assert len(set(taken)) == len(taken) == min(nodes, replicas)


def test_it_falls_back_to_any_other_and_names_none_where_nothing_has_room() -> None:
    assert options_for(None, {"a"}) == {"scheduling_strategy": "SPREAD"}
    options = options_for("b", {"c", "a"})
    assert options["label_selector"] == {NODE: "in(b)"}
    assert options["fallback_strategy"] == [
        {"label_selector": {NODE: "!in(a,c)"}},
        {"label_selector": {}},
    ]


def test_further_gateways_have_the_ports_after_the_first_on_its_machine() -> None:
    config = GatewayConfig(host="0.0.0.0", port=50051)
    settings = GatewaySettings(config, telemetry=TelemetryConfig(MetricsAddress(9464)))
    second = of_number(settings, 1, at_home=True)
    assert (second.config.port, second.telemetry.metrics) == (50052, MetricsAddress(9465))
    assert of_number(settings, 1, at_home=False) == settings
    local = replace(settings, config=replace(config, host="127.0.0.1"))  # nodes of one machine
    assert of_number(local, 1, at_home=False).config.port == 50052
    free = GatewaySettings(GatewayConfig(port=0), telemetry=TelemetryConfig(MetricsAddress(0)))
    assert of_number(free, 2, at_home=True) == free


@pytest.mark.parametrize(
    ("place", "generation"), [("ix", ""), ("ix@g000002-abcdef", "g000002-abcdef"), ("i@x", "")]
)
def test_index_and_generation(
    place: str, generation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i@x").mkdir()
    index = place.removesuffix(f"@{generation}")
    assert split_place(place) == (str(tmp_path / index), generation)


def test_a_uri_stays_one() -> None:
    assert split_place("s3://bucket/ix@g1") == ("s3://bucket/ix", "g1")
    assert split_place("s3://bucket/ix") == ("s3://bucket/ix", "")
