"""Ask every shard of a generation, on one of its replicas each, and live with slow and dead ones.

    policy.py     every number, with its default
    choose.py     which replica: power of two choices (pure)
    budget.py     how many calls more than needed: hedges, retries (pure)
    latency.py    what is slow, by what was measured (pure)
    sickness.py   ejection and re-admission of one replica (pure; the clock is passed in)
    routes.py     a shard and the replicas that hold it now
    attempts.py   one question to one shard: attempts, hedges, retries, its deadline
    fan_out.py    all shards: complete answers, partial answers, coverage

What the shards speak is a seam (`ShardTransport`): gRPC in service, a fake in tests, so that the
whole fan-out runs in one process.
"""

from __future__ import annotations

from cluster.fan_out.attempts import Reply
from cluster.fan_out.fan_out import FanOut, all_or_first_error
from cluster.fan_out.policy import TailPolicy
from cluster.fan_out.routes import Connect, Replica, ShardRoute, ShardTransport

__all__ = [
    "Connect",
    "FanOut",
    "Replica",
    "Reply",
    "ShardRoute",
    "ShardTransport",
    "TailPolicy",
    "all_or_first_error",
]
