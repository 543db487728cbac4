"""A whole Ray node dies under steady load: the replica on another node answers, and a third node
takes the place of the lost one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from loadgen.served import serving
from loadgen.service import QUERY_TIMEOUT_S, SHARD_SERVER, TIMEOUT_S, K, build, check
from loadgen.steady import felt, steady
from loadgen.truth import Truth

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))
from ray_nodes import ADDRESSES, Nodes, ray_nodes

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

RATE, SECONDS, LOST_AT_S = 20.0, 40.0, 5.0


def holding(nodes: Nodes) -> list[str]:
    """The nodes with a shard server, the head last."""
    found = [node for node in nodes.processes if nodes.actors(node, SHARD_SERVER)]
    return sorted(found, key=lambda node: node == ADDRESSES[0])


def test_a_node_is_lost(tmp_path: Path) -> None:
    index, queries = build(tmp_path, shards=1)
    truth = Truth(K)
    truth.learn(index, queries)
    with (
        ray_nodes() as nodes,
        serving(
            index, ["--replicas", "2", "--port", "0"], tmp_path / "log", nodes.environment
        ) as served,
    ):
        before = holding(nodes)
        assert len(before) == 2, "replicas are on different nodes"
        offered = steady(
            [served.address],
            queries,
            truth,
            rate=RATE,
            seconds=SECONDS,
            timeout_s=QUERY_TIMEOUT_S,
            events=[(LOST_AT_S, lambda: nodes.end(before[0]))],
            k=K,
        )
        check(offered)
        print(felt(offered, LOST_AT_S))
        until = time.monotonic() + TIMEOUT_S
        while len(holding(nodes)) < 2:
            assert time.monotonic() < until, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.5)  # polling other processes; there is no event to wait for
