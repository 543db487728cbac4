"""The decisions of the controller: what should exist next, given what is remembered and seen. Pure.

    service, observed, now ──reconcile──▶ service

What differs between the new service and what runs is then started or ended (servers.py): a replica
that is in it and does not run is started, one that runs and is not in it is stopped. So a
controller that dies anywhere and comes back does the same again.

What holds, whatever happens:
    - the last ready server of a shard of the live generation is never drained,
    - a generation becomes live only after every gateway that reports has warmed it,
    - a drained server ends when every gateway knows that it has left and has no call on it, or
      after `drain_s`,
    - a table that differs has a larger version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cluster.controller.rollout import advance, restarting, wanted_replicas
from cluster.controller.state import GatewaySlot, Observed, Probe, Replica, Service, Spec
from cluster.controller.table import content
from cluster.controller.timing import DEFAULT_TIMING, Timing, reporting, serving, settled
from cluster.wire.admin import ReplicaPhase, RolloutPhase

READY, DRAINING, STARTING = ReplicaPhase.READY, ReplicaPhase.DRAINING, ReplicaPhase.STARTING


def reconcile(
    service: Service, seen: Observed, now: float, timing: Timing = DEFAULT_TIMING
) -> Service:
    """What should exist next."""
    after = _as_seen(service, seen, now, timing)
    after = advance(after, seen, now, timing)
    after = _with_replicas(after, seen, now, timing)
    after = _with_gateways(after, seen, now, timing)
    return _published(service, after)


def _as_seen(service: Service, seen: Observed, now: float, timing: Timing) -> Service:
    """Each server in the phase that it was seen in; a draining one that has ended is gone."""
    replicas = []
    for replica in service.replicas:
        probe = seen.probes.get(replica.replica_id)
        if probe is None:
            replicas.append(replica)
        elif probe.alive or replica.phase is not DRAINING:
            replicas.append(_seen_as(replica, probe, now, timing))
    gateways = []
    for slot in service.gateways:
        probe = seen.probes.get(slot.gateway)
        if probe is None:
            gateways.append(slot)
        else:
            gateways.append(replace(slot, address=probe.address, node_id=probe.node_id))
    return replace(service, replicas=tuple(replicas), gateways=tuple(gateways))


def _seen_as(replica: Replica, probe: Probe, now: float, timing: Timing) -> Replica:
    if not probe.address:
        if replica.phase is STARTING or (probe.alive and not probe.error):
            return replica
        return replace(replica, phase=STARTING, address="", since=now)
    if replica.phase is STARTING:
        replica = replace(replica, phase=READY, since=now)
    hangs = now - probe.heard_at > timing.hung_s
    return replace(
        replica,
        address=probe.address,
        node_id=probe.node_id,
        leaving=replica.leaving or hangs,
    )


def _with_replicas(service: Service, seen: Observed, now: float, timing: Timing) -> Service:
    """Every shard with as many servers as there should be; what is more, or old, leaves."""
    wanted = {spec.generation: spec for spec in _wanted(service)}
    kept = []
    for replica in service.replicas:
        if replica.generation not in wanted:
            if replica.phase is STARTING:
                continue
            replica = _drained(replica, now)
        if not _may_end(replica, seen, now, timing):
            kept.append(replica)
    service = replace(service, replicas=tuple(kept))
    for spec in wanted.values():
        for shard in spec.shards:
            service = _with_shard(service, spec.generation, shard.shard_id, now)
    return service


def _wanted(service: Service) -> Iterator[Spec]:
    """The generations that must have servers now."""
    if service.live is not None:
        yield service.live
    rollout = service.rollout
    if rollout is not None and rollout.under_way:
        yield rollout.target
        if rollout.phase is RolloutPhase.SWITCHING and rollout.previous is not None:
            yield rollout.previous


def _with_shard(service: Service, generation: str, shard_id: str, now: float) -> Service:
    """One shard with as many servers as it should have. One that leaves does so when enough others
    are ready; one that leaves before it was ready just ends."""
    own: list[Replica] = []
    others: list[Replica] = []
    for replica in service.replicas:
        mine = (replica.generation, replica.shard_id) == (generation, shard_id)
        (own if mine and replica.phase is not DRAINING else others).append(replica)
    wanted = wanted_replicas(service, generation)
    own = _told_to_leave(own, wanted, service, generation)
    staying = [replica for replica in own if not replica.leaving]
    leaving = [replica for replica in own if replica.leaving and replica.phase is READY]
    if sum(replica.phase is READY for replica in staying) >= wanted:
        leaving = [_drained(replica, now) for replica in leaving]
    new = [
        Replica(f"{generation}.{shard_id}.{serial}", generation, shard_id, service.software, now)
        for serial in range(service.serial + 1, service.serial + 1 + max(0, wanted - len(staying)))
    ]
    return replace(
        service,
        replicas=(*others, *staying, *leaving, *new),
        serial=service.serial + len(new),
    )


def _told_to_leave(
    own: Sequence[Replica], wanted: int, service: Service, generation: str
) -> list[Replica]:
    """The same servers, those marked that should not stay: on a node that is avoided, one of old
    software at a time, and what is more than wanted (not ready, on a crowded node, or young)."""
    leaving = {
        replica.replica_id
        for replica in own
        if replica.leaving or (replica.node_id and replica.node_id in service.avoided)
    }
    target = service.rollout.target.generation if service.rollout is not None else ""
    if restarting(service) and target == generation and not leaving:
        old = [replica for replica in own if replica.software < service.software]
        if old and all(replica.phase is READY for replica in own):
            leaving.add(old[0].replica_id)
    staying = [replica for replica in own if replica.replica_id not in leaving]
    crowd = Counter(replica.node_id for replica in staying)
    staying.sort(key=lambda one: (one.phase is READY, -crowd[one.node_id], -_serial(one)))
    leaving |= {replica.replica_id for replica in staying[: max(0, len(staying) - wanted)]}
    return [replace(one, leaving=one.replica_id in leaving) for one in own]


def _serial(replica: Replica) -> int:
    return int(replica.replica_id.rpartition(".")[2])


def _drained(replica: Replica, now: float) -> Replica:
    if replica.phase is DRAINING:
        return replica
    return replace(replica, phase=DRAINING, since=now, leaving=True)


def _may_end(replica: Replica, seen: Observed, now: float, timing: Timing) -> bool:
    """Whether a drained server has nothing to do any more, or had its time."""
    if replica.phase is not DRAINING:
        return False
    if now - replica.since > timing.drain_s:
        return True
    return (
        replica.left_at > 0
        and settled(seen, now, timing)
        and all(
            report.version >= replica.left_at and not report.outstanding.get(replica.replica_id)
            for report in reporting(seen, now, timing)
        )
    )


def _with_gateways(service: Service, seen: Observed, now: float, timing: Timing) -> Service:
    """As many gateways beside the first as there should be. One that leaves is not in it any more:
    it refuses, finishes and ends by itself."""
    answering = {report.address for report in serving(seen, now, timing)}
    slots = sorted(service.gateways, key=lambda slot: slot.number)
    slots = slots[: max(0, service.scale.gateways - 1)]
    away = [slot for slot in slots if slot.node_id and slot.node_id in service.avoided]
    complete = len(slots) == service.scale.gateways - 1
    if restarting(service) and complete and all(slot.address in answering for slot in slots):
        away += [slot for slot in slots if slot.software < service.software]
    if away and answering - {away[0].address}:
        slots.remove(away[0])
        return replace(service, gateways=tuple(slots))
    serial = service.serial
    free = (number for number in range(1, 10_000) if number not in {s.number for s in slots})
    for number in [next(free) for _ in range(service.scale.gateways - 1 - len(slots))]:
        serial += 1
        slots.append(GatewaySlot(f"gateway.{number}.{serial}", number, service.software, now))
    return replace(service, gateways=tuple(slots), serial=serial)


def _published(before: Service, after: Service) -> Service:
    """With a new version where the table has changed; who waits for a version learns which."""
    version = before.version + (content(before) != content(after))
    replicas = tuple(
        replace(one, left_at=version) if one.phase is DRAINING and not one.left_at else one
        for one in after.replicas
    )
    rollout = after.rollout
    if rollout is not None and not rollout.table:
        rollout = replace(rollout, table=version)
    return replace(after, version=version, replicas=replicas, rollout=rollout)
