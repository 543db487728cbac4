"""The load of a service, from what its gateways report and its servers say. Pure."""

from __future__ import annotations

from collections import Counter

from cluster.autoscale import Sample
from cluster.controller.state import Observed, Service
from cluster.controller.timing import Timing, reporting


def sample_of(service: Service, seen: Observed, now: float, timing: Timing) -> Sample:
    """The load now."""
    reports = list(reporting(seen, now, timing))
    calls: Counter[str] = Counter()
    cpu: Counter[str] = Counter()
    outstanding: Counter[str] = Counter()
    for report in reports:
        outstanding.update(report.outstanding)
    live = "" if service.live is None else service.live.generation
    for replica in service.replicas:
        if replica.generation != live:
            continue
        calls[replica.shard_id] += outstanding[replica.replica_id]
        if (probe := seen.probes.get(replica.replica_id)) and probe.address:
            cpu[replica.shard_id] += probe.cpu  # type: ignore[assignment]  # a share
    return Sample(
        at=now,
        shard_calls=max(calls.values(), default=0),
        shard_cpu=max(cpu.values(), default=0.0),
        queries=sum(report.in_flight for report in reports),
        gateway_cpu=sum(report.cpu for report in reports),
        queue_delay_ms=max((report.queue_delay_ms for report in reports), default=0.0),
    )
