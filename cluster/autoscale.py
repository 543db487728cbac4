"""How many replicas and gateways there should be for the load. Pure.

Of each kind so many are *needed* that each has its share of the work: calls under way, processor
time and, for gateways, what queries wait. Then, with hysteresis:

    up    at once: when the mean need of the last seconds is more than there are, by a tolerance
    down  slowly: when for a minute that mean was never more than fewer could do, by a tolerance

Means in both directions: the calls under way at one moment come by chance, and the highest of a
minute would hold on to replicas that nobody needs.

After a change nothing is decided before its effect can show. All replicas of all shards move
together, since every query asks every shard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from cluster.controller.state import Scale


@dataclass(frozen=True, slots=True)
class AutoscalePolicy:
    """What one of each should have to do, and how quickly is decided.

    Attributes:
        replica_calls: calls under way on one shard server.
        replica_cpu: CPUs that one uses.
        gateway_queries: queries under way in one gateway.
        gateway_cpu: CPUs that one uses.
        queue_delay_ms: that queries may wait in a gateway before work on them begins.
        tolerance: share by which the need must miss what there is.
        up_s, down_s: how far decisions look back, and wait after a change.
    """

    replica_calls: float = 2.0
    replica_cpu: float = 0.7
    gateway_queries: float = 32.0
    gateway_cpu: float = 0.7
    queue_delay_ms: float = 100.0
    tolerance: float = 0.1
    up_s: float = 5.0
    down_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The load at one moment.

    Attributes:
        shard_calls: calls under way on the busiest shard, over its replicas.
        shard_cpu: CPUs that the replicas of the busiest shard use.
        queries, gateway_cpu: under way in, and CPUs used by, all gateways.
        queue_delay_ms: of the gateway where queries wait longest.
    """

    at: float
    shard_calls: float = 0.0
    shard_cpu: float = 0.0
    queries: float = 0.0
    gateway_cpu: float = 0.0
    queue_delay_ms: float = 0.0


def needed_replicas(policy: AutoscalePolicy, sample: Sample) -> float:
    """Replicas that each have their share of the work; a fraction."""
    return max(sample.shard_calls / policy.replica_calls, sample.shard_cpu / policy.replica_cpu)


def needed_gateways(policy: AutoscalePolicy, sample: Sample, gateways: int) -> float:
    """Gateways that each have their share; where queries wait, up to twice as many as there are."""
    waiting = gateways * min(2.0, sample.queue_delay_ms / policy.queue_delay_ms)
    by_queries = sample.queries / policy.gateway_queries
    return max(by_queries, sample.gateway_cpu / policy.gateway_cpu, waiting)


def decide(
    now: int,
    low: int,
    high: int,
    recent: Sequence[float],
    longer: Sequence[float],
    tolerance: float,
) -> int:
    """How many there should be.

    Args:
        now: how many there are.
        low, high: the bounds.
        recent: what was needed in the last seconds; empty where it is too early to say.
        longer: means of such seconds over the longer time; empty where it is too early to say.
        tolerance: in [0, 1).
    """
    wanted = now
    if recent and fmean(recent) > now * (1 + tolerance):
        wanted = math.ceil(fmean(recent))
    elif longer:
        wanted = min(now, max(1, math.ceil(max(longer) / (1 - tolerance))))
    return min(max(wanted, low), high)


def rescaled(
    policy: AutoscalePolicy, scale: Scale, samples: Sequence[Sample], now: float, changed_at: float
) -> Scale:
    """The scale for the load.

    Args:
        samples: the oldest first; those from before `changed_at` are not looked at.
        changed_at: when the scale changed last.
    """
    fresh = [sample for sample in samples if sample.at > changed_at]

    def needed(need: Callable[[Sample], float]) -> tuple[list[float], list[float]]:
        recent = [need(one) for one in fresh if one.at > now - policy.up_s]
        longer = _means([(one.at, need(one)) for one in fresh], now - policy.down_s, policy.up_s)
        since = now - changed_at
        return recent if since >= policy.up_s else [], longer if since >= policy.down_s else []

    replicas = decide(
        scale.replicas,
        scale.min_replicas,
        scale.max_replicas,
        *needed(lambda one: needed_replicas(policy, one)),
        policy.tolerance,
    )
    gateways = decide(
        scale.gateways,
        scale.min_gateways,
        scale.max_gateways,
        *needed(lambda one: needed_gateways(policy, one, scale.gateways)),
        policy.tolerance,
    )
    if (replicas, gateways) == (scale.replicas, scale.gateways):
        return scale
    seen = [one for one in fresh if one.at > now - policy.up_s] or fresh
    return replace(
        scale, replicas=replicas, gateways=gateways, reason=_reason(scale, replicas, gateways, seen)
    )


def _means(needs: Sequence[tuple[float, float]], start: float, span_s: float) -> list[float]:
    """The mean of the seconds that end with each (time, need) after `start`."""
    return [
        fmean(need for at, need in needs if end - span_s < at <= end)
        for end, _ in needs
        if end > start
    ]


def _reason(scale: Scale, replicas: int, gateways: int, samples: Sequence[Sample]) -> str:
    load = (
        f"{fmean(one.shard_calls for one in samples):.1f} calls and "
        f"{fmean(one.shard_cpu for one in samples):.2f} CPUs on the busiest shard, "
        f"{fmean(one.queries for one in samples):.1f} queries under way"
        if samples
        else "the bounds"
    )
    return f"replicas {scale.replicas} → {replicas}, gateways {scale.gateways} → {gateways}: {load}"
