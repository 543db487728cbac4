"""What an operator may ask of a controller, as changes of what it remembers.

All but `target_of` and `generation_on_disk`, which read the index, are pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from cluster.controller.state import Observed, Rollout, Scale, Service, ShardSize, Spec, resized
from cluster.wire.admin import Drained, RolloutCall, ScaleChange
from colbert_core.errors import AlreadyRunning, InvalidInput
from colbert_core.index import Manifest, read_current, read_generation
from colbert_core.storage import location

MAX_REPLICAS = 1000


def under_way(service: Service) -> bool:
    """Whether a rollout is."""
    return service.rollout is not None and service.rollout.under_way


def check_idle(service: Service, now: float) -> None:
    """Raise AlreadyRunning where a rollout is under way."""
    rollout = service.rollout
    if rollout is not None and rollout.under_way:
        waits = f": {rollout.message}" if rollout.message else ""
        raise AlreadyRunning(
            f"a rollout to generation {rollout.target.generation} is under way for "
            f"{now - rollout.began:.0f} s ({rollout.phase}{waits}); wait for it (`tartan status`)"
        )


def check_rollout(service: Service, rollout_id: str) -> Rollout:
    """The rollout of that id, which is the last one.

    Raises:
        InvalidInput: it is another one.
    """
    rollout = service.rollout
    if rollout is None or rollout.rollout_id != rollout_id:
        last = "there was none" if rollout is None else f"the last is {rollout.rollout_id}"
        raise InvalidInput(f"rollout {rollout_id} is not known: {last}")
    return rollout


def target_of(service: Service, call: RolloutCall) -> Spec:
    """What a rollout is to serve, read from the index.

    Raises:
        InvalidInput: it names no index and none is served, or a number is not possible.
        IndexMissing, IndexCorrupt, StorageError: there is no such index or generation.
    """
    if call.replicas is not None and not 1 <= call.replicas <= MAX_REPLICAS:
        raise InvalidInput(f"replicas is {call.replicas}; give 1 to {MAX_REPLICAS:,}")
    if call.timeout_s is not None and not call.timeout_s > 0:
        raise InvalidInput(f"timeout_s is {call.timeout_s}; give more than 0 seconds")
    index = call.index or ("" if service.live is None else service.live.index)
    if not index:
        raise InvalidInput("nothing is served yet: name the index")
    place = location(index)
    if not call.generation:
        return spec_of(index, read_current(place))
    return spec_of(index, read_generation(place, call.generation))


def spec_of(index: str, manifest: Manifest) -> Spec:
    """A generation as a controller remembers it."""
    shards = tuple(
        ShardSize(shard.id, shard.live_passages, shard.live_tokens) for shard in manifest.shards
    )
    return Spec(index, manifest.generation, shards)


def generation_on_disk(index: str) -> str:
    """The generation that is live on disk.

    Raises:
        IndexMissing, IndexCorrupt, StorageError: that cannot be read.
    """
    return read_current(location(index)).generation


def with_rollout(
    service: Service, target: Spec, call: RolloutCall, now: float, timeout_s: float
) -> Service:
    """The service as it begins a rollout: of another generation; or, of the one that it serves, a
    restart, or more or fewer replicas where the call asks for a number.

    Raises:
        AlreadyRunning: another one is under way.
        InvalidInput: the generation is served from another place.
    """
    check_idle(service, now)
    live = service.live
    if live is not None and live.generation == target.generation and live != target:
        raise InvalidInput(
            f"generation {live.generation} is served already, from {live.index}: a rollout goes to "
            "another generation"
        )
    same = live == target
    replicas = call.replicas or 0
    serial = service.serial + 1
    scale = service.scale
    if replicas and (same or live is None):
        scale = resized(scale, "replicas", replicas)
    restart = same and not replicas
    rollout = Rollout(
        rollout_id=f"rollout-{serial}",
        target=target,
        previous=live,
        began=now,
        since=now,
        deadline=now + timeout_s,
        restart=restart,
        replicas=replicas,
        replicas_before=service.scale.replicas,
    )
    software = service.software + restart
    return replace(service, rollout=rollout, scale=scale, serial=serial, software=software)


def with_scale(service: Service, change: ScaleChange) -> Service:
    """The service with other numbers, or other bounds. A number moves a bound that it passes, where
    the call names no bound of its kind.

    Raises:
        InvalidInput: they contradict.
    """
    given = {
        field.name: value
        for field in fields(change)
        if (value := getattr(change, field.name)) is not None
    }
    for name, value in given.items():
        if not 1 <= value <= MAX_REPLICAS:
            raise InvalidInput(f"{name} is {value}; give 1 to {MAX_REPLICAS:,}")
    scale = replace(service.scale, reason="so it was asked")
    for kind in ("replicas", "gateways"):
        scale = _rescaled(scale, kind, given)
    return replace(service, scale=scale)


def _rescaled(scale: Scale, kind: str, given: Mapping[str, int]) -> Scale:
    bounds = {name: given[name] for name in (f"min_{kind}", f"max_{kind}") if name in given}
    if not bounds:
        return resized(scale, kind, given[kind]) if kind in given else scale
    low, high = (
        bounds.get(f"{end}_{kind}", getattr(scale, f"{end}_{kind}")) for end in ("min", "max")
    )
    if low > high:
        raise InvalidInput(f"min_{kind} is {low} and max_{kind} {high}: the least comes first")
    if kind in given and not low <= given[kind] <= high:
        raise InvalidInput(f"{kind} is {given[kind]}; the bounds allow {low} to {high}")
    number = min(max(given.get(kind, getattr(scale, kind)), low), high)
    changed: Any = {kind: number, **bounds}
    return replace(scale, **changed)


def with_drain(service: Service, seen: Observed, kind: str, name: str) -> tuple[Service, Drained]:
    """The service without a replica, a gateway, or anything on a node; others come instead.

    Raises:
        InvalidInput: there is no such one, or it cannot be drained from here.
    """
    if kind == "node":
        return _without_node(service, seen, name)
    if kind == "replica":
        if name not in {replica.replica_id for replica in service.replicas}:
            raise InvalidInput(f"there is no replica {name}: `tartan status` lists them")
        replicas = tuple(
            replace(one, leaving=True) if one.replica_id == name else one
            for one in service.replicas
        )
        return replace(service, replicas=replicas), Drained((name,), ())
    heard = seen.reports.get(name)
    address = "" if heard is None else heard.report.address
    gone = [slot for slot in service.gateways if name == slot.gateway or address == slot.address]
    if not gone or (heard is None and name != gone[0].gateway):
        if heard is None:
            raise InvalidInput(f"there is no gateway {name}: `tartan status` lists them")
        raise InvalidInput(
            f"gateway {name} at {address} is the one in the process of `tartan serve`: it ends "
            "with that, at SIGTERM"
        )
    slots = tuple(slot for slot in service.gateways if slot not in gone)
    return replace(service, gateways=slots), Drained((), (name,))


def _without_node(service: Service, seen: Observed, node_id: str) -> tuple[Service, Drained]:
    replicas = tuple(one.replica_id for one in service.replicas if one.node_id == node_id)
    slots = tuple(slot.gateway for slot in service.gateways if slot.node_id == node_id)
    known = {probe.node_id for probe in seen.probes.values()}
    if node_id not in known:
        raise InvalidInput(f"nothing runs on a node {node_id}: `tartan status` lists them")
    avoided = tuple(dict.fromkeys((*service.avoided, node_id)))
    return replace(service, avoided=avoided), Drained(replicas, slots)
