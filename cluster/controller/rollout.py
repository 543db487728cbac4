"""The steps of a rollout. Pure.

    loading ─▶ warming ─▶ switching ─▶ releasing ─▶ done          to another generation
    loading ───────────────────────▶ releasing ─▶ done            restart, or more replicas
    loading ─▶ done                                               the first, before anybody asks
       └──────────┴─▶ rolled back                                 nobody was served by it

Until it switches, an error of a shard server, a failed warm-up or its deadline takes it back; from
then on it only goes forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cluster.controller.state import Observed, Replica, Rollout, Service, resized
from cluster.controller.timing import Timing, serving, settled
from cluster.wire.admin import ReplicaPhase, RolloutPhase


def advance(service: Service, seen: Observed, now: float, timing: Timing) -> Service:
    """The service after the next step of its rollout, if the time for it has come."""
    rollout = service.rollout
    if rollout is None or not rollout.under_way:
        return service
    match rollout.phase:
        case RolloutPhase.LOADING:
            return _loading(service, rollout, seen, now)
        case RolloutPhase.WARMING:
            return _warming(service, rollout, seen, now, timing)
        case RolloutPhase.SWITCHING:
            return _switching(service, rollout, seen, now, timing)
        case _:
            return _releasing(service, rollout, now)


def wanted_replicas(service: Service, generation: str) -> int:
    """How many servers each shard of a generation should have."""
    rollout = service.rollout
    if rollout is not None and rollout.under_way and rollout.target.generation == generation:
        return rollout.replicas or service.scale.replicas
    return service.scale.replicas


def restarting(service: Service) -> bool:
    """Whether servers and gateways are being replaced one after another."""
    rollout = service.rollout
    return rollout is not None and rollout.restart and rollout.phase is RolloutPhase.LOADING


def _loading(service: Service, rollout: Rollout, seen: Observed, now: float) -> Service:
    for replica in _of_target(service, rollout):
        probe = seen.probes.get(replica.replica_id)
        if probe is not None and probe.error:
            where = f"shard {replica.shard_id} on node {probe.node_address or '?'}"
            return _rolled_back(service, rollout, f"{where}: {probe.message}", probe.error, now)
    missing = list(_missing(service, rollout))
    if missing:
        waits = f"shard servers: {', '.join(missing)}"
        return _waiting(service, rollout, waits, seen, now)
    if service.live is None:
        service = replace(service, live=rollout.target)
        return _to(service, rollout, RolloutPhase.DONE, now)
    if not rollout.same:
        return _to(service, rollout, RolloutPhase.WARMING, now)
    old = [slot for slot in service.gateways if slot.software < service.software]
    if rollout.restart and (old or not all(slot.address for slot in service.gateways)):
        waits = f"gateways: {len(old)} of {len(service.gateways)} to restart"
        return _waiting(service, rollout, waits, seen, now)
    return _to(service, rollout, RolloutPhase.RELEASING, now)


def _missing(service: Service, rollout: Rollout) -> Iterator[str]:
    """What is not as it should be of each shard, for people to read."""
    wanted = wanted_replicas(service, rollout.target.generation)
    for shard in rollout.target.shards:
        ready = [
            replica
            for replica in _of_target(service, rollout)
            if replica.shard_id == shard.shard_id
            and replica.phase is ReplicaPhase.READY
            and not replica.leaving
            and (not rollout.restart or replica.software == service.software)
        ]
        if len(ready) < wanted:
            yield f"{shard.shard_id} {len(ready)} of {wanted} ready"


def _warming(
    service: Service, rollout: Rollout, seen: Observed, now: float, timing: Timing
) -> Service:
    name = rollout.target.generation
    asked = serving(seen, now, timing)
    for report in asked:
        if report.problem and report.version >= rollout.table > 0:
            reason = f"gateway {report.address}: {report.problem}"
            return _rolled_back(service, rollout, reason, "", now)
    cold = [report.address for report in asked if report.warmed != name]
    missing = list(_missing(service, rollout))
    if cold or missing or not settled(seen, now, timing):
        waits = f"{len(asked) - len(cold)} of {len(asked)} gateways are warm"
        if missing:
            waits = f"shard servers: {', '.join(missing)}"
        return _waiting(service, rollout, waits, seen, now)
    scale = service.scale
    if rollout.replicas:
        scale = resized(scale, "replicas", rollout.replicas)
    service = replace(service, live=rollout.target, scale=scale)
    return _to(service, rollout, RolloutPhase.SWITCHING, now)


def _switching(
    service: Service, rollout: Rollout, seen: Observed, now: float, timing: Timing
) -> Service:
    old = "" if rollout.previous is None else rollout.previous.generation
    asking = [
        report.address
        for report in serving(seen, now, timing)
        if report.version < rollout.table or report.live == old or old in report.in_use
    ]
    if not settled(seen, now, timing) or (asking and now - rollout.since < timing.drain_s):
        message = f"{len(asking)} gateways finish queries on {old}"
        return replace(service, rollout=replace(rollout, message=message))
    return _to(service, rollout, RolloutPhase.RELEASING, now)


def _releasing(service: Service, rollout: Rollout, now: float) -> Service:
    left = [
        replica
        for replica in service.replicas
        if replica.generation != rollout.target.generation
        or replica.leaving
        or replica.phase is ReplicaPhase.DRAINING
    ]
    if left:
        message = f"{len(left)} shard servers finish and end"
        return replace(service, rollout=replace(rollout, message=message))
    return _to(service, rollout, RolloutPhase.DONE, now)


def _of_target(service: Service, rollout: Rollout) -> Iterator[Replica]:
    name = rollout.target.generation
    return (replica for replica in service.replicas if replica.generation == name)


def _waiting(service: Service, rollout: Rollout, waits: str, seen: Observed, now: float) -> Service:
    """Still in its phase, or given up because its time is over."""
    if now <= rollout.deadline:
        return replace(service, rollout=replace(rollout, message=waits))
    silent = [
        replica.replica_id
        for replica in _of_target(service, rollout)
        if not (probe := seen.probes.get(replica.replica_id)) or not probe.node_id
    ]
    placed = f"; {len(silent)} have no node yet: is there room for them?" if silent else ""
    reason = f"waited {now - rollout.began:.0f} s for {waits}{placed}"
    return _rolled_back(service, rollout, reason, "Unavailable", now)


def _rolled_back(
    service: Service, rollout: Rollout, reason: str, error: str, now: float
) -> Service:
    scale = service.scale
    if rollout.same:
        scale = resized(scale, "replicas", rollout.replicas_before)
    replicas = tuple(replace(replica, leaving=False) for replica in service.replicas)
    service = replace(service, scale=scale, replicas=replicas)
    given_up = replace(rollout, reason=reason, error=error)
    return _to(service, given_up, RolloutPhase.ROLLED_BACK, now)


def _to(service: Service, rollout: Rollout, phase: RolloutPhase, now: float) -> Service:
    message = f"took {now - rollout.began:.1f} s" if phase.over else ""
    changed = replace(rollout, phase=phase, since=now, table=0, message=message)
    return replace(service, rollout=changed)
