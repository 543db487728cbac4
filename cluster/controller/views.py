"""What an operator is shown of a service: made of what is remembered and seen. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from cluster.controller.rollout import wanted_replicas
from cluster.controller.state import Heard, Observed, Probe, Replica, Rollout, Service, Spec
from cluster.controller.timing import Timing
from cluster.wire.admin import (
    ControllerState,
    GatewayPhase,
    GatewayState,
    GenerationRole,
    GenerationState,
    ReplicaState,
    RolloutState,
    ScaleState,
    ShardState,
    Stats,
    Topology,
)

QUIET_S = 3.0  # a server that has not answered for so long is said to be


def topology(service: Service, seen: Observed, now: float) -> Topology:
    """Every generation that has, or should have, shard servers."""
    outstanding: Counter[str] = Counter()
    for heard in seen.reports.values():
        outstanding.update(heard.report.outstanding)
    generations = []
    for spec, role in _generations(service):
        shards = [
            ShardState(
                shard.shard_id,
                shard.passages,
                shard.tokens,
                0 if role is GenerationRole.LEAVING else wanted_replicas(service, spec.generation),
                tuple(
                    _replica(replica, seen.probes.get(replica.replica_id), outstanding, now)
                    for replica in service.replicas
                    if (replica.generation, replica.shard_id) == (spec.generation, shard.shard_id)
                ),
            )
            for shard in spec.shards
        ]
        if role is GenerationRole.LEAVING:
            shards = [shard for shard in shards if shard.replicas]
        if shards:
            generations.append(GenerationState(spec.index, spec.generation, role, tuple(shards)))
    return Topology(service.version, tuple(generations))


def _generations(service: Service) -> Iterator[tuple[Spec, GenerationRole]]:
    live, rollout = service.live, service.rollout
    if live is not None:
        yield live, GenerationRole.LIVE
    for spec in () if rollout is None else (rollout.target, rollout.previous):
        if spec is not None and spec != live:
            coming = rollout is not None and rollout.under_way and spec is rollout.target
            yield spec, GenerationRole.NEXT if coming else GenerationRole.LEAVING


def _replica(
    replica: Replica, probe: Probe | None, outstanding: Counter[str], now: float
) -> ReplicaState:
    probe = probe or Probe()
    problem = probe.message
    if probe.address and now - probe.heard_at > QUIET_S:
        problem = f"has not answered for {now - probe.heard_at:.0f} s"
    return ReplicaState(
        replica_id=replica.replica_id,
        address=replica.address,
        node_id=probe.node_id or replica.node_id,
        node_address=probe.node_address,
        phase=replica.phase,
        seconds_in_phase=now - replica.since,
        leaving=replica.leaving,
        problem=problem,
        outstanding=outstanding[replica.replica_id],
        cpu=probe.cpu,
        memory_bytes=probe.memory_bytes,
        pid=probe.pid,
    )


def gateway_states(
    service: Service, seen: Observed, now: float, timing: Timing
) -> tuple[GatewayState, ...]:
    """Every gateway that reported of late, and those that should exist and have not yet."""
    nodes = {slot.address: slot.node_id for slot in service.gateways if slot.address}
    states = [
        _gateway(heard, nodes.get(heard.report.address, ""), now, timing)
        for heard in seen.reports.values()
    ]
    reported = {state.address for state in states}
    states += [
        GatewayState(slot.gateway, slot.address, slot.node_id, GatewayPhase.STARTING, -1.0)
        for slot in service.gateways
        if not slot.address or slot.address not in reported
    ]
    return tuple(sorted(states, key=lambda state: (state.address, state.gateway_id)))


def _gateway(heard: Heard, node_id: str, now: float, timing: Timing) -> GatewayState:
    report, age_s = heard.report, now - heard.at
    phase = GatewayPhase.SERVING if report.live else GatewayPhase.STARTING
    if report.draining:
        phase = GatewayPhase.DRAINING
    if age_s > timing.silent_s:
        phase = GatewayPhase.SILENT
    return GatewayState(
        gateway_id=report.gateway_id,
        address=report.address,
        node_id=node_id,
        phase=phase,
        seconds_since_report=age_s,
        table_version=report.version,
        live=report.live,
        warmed=report.warmed,
        problem=report.problem,
        in_flight=report.in_flight,
        queue_delay_ms=report.queue_delay_ms,
        cpu=report.cpu,
        queries=report.queries,
    )


def scale_state(service: Service) -> ScaleState:
    """How many there should be."""
    scale = service.scale
    return ScaleState(
        scale.replicas,
        scale.min_replicas,
        scale.max_replicas,
        scale.gateways,
        scale.min_gateways,
        scale.max_gateways,
        scale.reason,
    )


def rollout_state(rollout: Rollout, now: float) -> RolloutState:
    """A rollout, under way or over."""
    return RolloutState(
        rollout_id=rollout.rollout_id,
        index=rollout.target.index,
        generation=rollout.target.generation,
        from_generation="" if rollout.previous is None else rollout.previous.generation,
        phase=rollout.phase,
        message=rollout.message,
        reason=rollout.reason,
        seconds=(rollout.since if rollout.phase.over else now) - rollout.began,
        error=rollout.error,
    )


def stats(
    service: Service,
    seen: Observed,
    now: float,
    timing: Timing,
    disk_generation: str,
) -> Stats:
    """Gateways, load and versions.

    Args:
        disk_generation: what is live on disk; "" where that cannot be read.
    """
    gateways = gateway_states(service, seen, now, timing)
    present = [one for one in gateways if one.phase is not GatewayPhase.SILENT]
    live = "" if service.live is None else service.live.generation
    return Stats(
        service=service.name,
        index="" if service.live is None else service.live.index,
        live_generation=live,
        disk_generation=disk_generation,
        behind_disk=bool(disk_generation) and disk_generation != live,
        table_version=service.version,
        gateways=gateways,
        in_flight=sum(one.in_flight for one in present),
        queries=sum(one.queries for one in present),
        scale=scale_state(service),
        rollout=None if service.rollout is None else rollout_state(service.rollout, now),
        controller=ControllerState(now - seen.since, max(0, service.starts - 1)),
    )
