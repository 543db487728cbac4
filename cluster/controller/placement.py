"""Which node a new shard server should start on. Pure.

Ray spreads actors as best it can, but does not know which of them are replicas of one shard. So a
node is named where there is one with room that has no replica of the shard; Ray falls back to any
other. Where there is none with room nothing is named, and what waits for room is what an autoscaler
sees.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from colbert_core.errors import Unavailable

NODE = "ray.io/node-id"


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node that is alive, and what Ray has not given away of it."""

    node_id: str
    cpus: float
    gpus: float


def choose_node(
    nodes: Iterable[NodeRoom],
    taken: Collection[str],
    servers: Mapping[str, int],
    cpus: float,
    gpus: float,
) -> str | None:
    """The node to prefer: with room, without a replica of the shard, with the fewest servers.

    Args:
        taken: nodes that have, or were promised, a replica of the same shard, or are avoided.
        servers: shard servers on, or promised to, each node.
        cpus, gpus: that the server reserves.
    """
    counts = Counter(servers)
    fitting = [
        node
        for node in nodes
        if node.node_id not in taken and node.cpus >= cpus and node.gpus >= gpus
    ]
    best = min(fitting, key=lambda n: (counts[n.node_id], -n.cpus, n.node_id), default=None)
    return None if best is None else best.node_id


def options_for(node: str | None, taken: Collection[str]) -> dict[str, Any]:
    """The options of an actor that should start there: there, else on no node that is taken, else
    anywhere."""
    if node is None:
        return {"scheduling_strategy": "SPREAD"}
    others: list[dict[str, Any]] = [{"label_selector": {}}]
    if taken:
        listed = ",".join(sorted(taken))
        others.insert(0, {"label_selector": {NODE: f"!in({listed})"}})
    return {"label_selector": {NODE: f"in({node})"}, "fallback_strategy": others}


def gpu_share(servers: int, gpus: float) -> float:
    """GPUs that Ray is to reserve for each of so many servers: equal parts of a GPU, or one.

    Raises:
        Unavailable: there is none.
    """
    if gpus < 1:
        raise Unavailable(
            "device is 'cuda', and Ray has no GPU: run it where there is one, join such nodes to "
            "the cluster before serving, or serve with --device cpu"
        )
    together = math.ceil(servers / int(gpus))
    return math.floor(10_000 / together) / 10_000  # the finest that Ray divides
