"""Events of a gateway, for tests of what is made of them."""

from __future__ import annotations

from typing import Any

from cluster.observer import QueryFinished, ReplicaEvent, ShardCallFinished
from cluster.wire.types import Coverage

STAGES = {"queue": 0.1, "encode": 12.0, "probe": 0.4, "fan_out": 5.0, "merge": 0.2, "fetch": 3.0}
WHOLE = Coverage(2, 2, 0, 0, 100, 100)


def query(**changes: Any) -> QueryFinished:
    """An answered query of 20.7 ms."""
    values: dict[str, Any] = {
        "client": "notebook",
        "generation": "g1",
        "started": 100.0,
        "total_ms": 20.7,
        "stages_ms": STAGES,
        "status": "OK",
        "coverage": WHOLE,
        "k": 10,
        "query_tokens": 12,
        "text_chars": 40,
        "candidates": 5_000,
        "scored": 160,
    }
    return QueryFinished(**(values | changes))


def shard_call(shard: str = "s0", **changes: Any) -> ShardCallFinished:
    """An answered search of 4 ms."""
    values: dict[str, Any] = {
        "kind": "search",
        "generation": "g1",
        "shard_id": shard,
        "replica_id": f"{shard}-r0",
        "address": "127.0.0.1:7000",
        "started": 100.0125,
        "elapsed_ms": 4.0,
        "status": "OK",
        "search_ms": 3.0,
    }
    return ShardCallFinished(**(values | changes))


def replica(shard: str = "s0", **changes: Any) -> ReplicaEvent:
    values: dict[str, Any] = {
        "generation": "g1",
        "shard_id": shard,
        "replica_id": f"{shard}-r0",
        "address": "127.0.0.1:7000",
        "reason": "slow",
    }
    return ReplicaEvent(**(values | changes))
