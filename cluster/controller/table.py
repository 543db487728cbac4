"""The routing table that follows from what a controller remembers. Pure."""

from __future__ import annotations

from cluster.controller.state import Service, Spec
from cluster.topology import ReplicaPlace, RoutingTable, ServedGeneration, ShardPlace
from cluster.wire.admin import ReplicaPhase, RolloutPhase

Content = tuple[ServedGeneration | None, ServedGeneration | None]


def table_of(service: Service) -> RoutingTable | None:
    """What gateways are told; None before anything can be served."""
    live, warming = content(service)
    return None if live is None else RoutingTable(service.version, live, warming)


def content(service: Service) -> Content:
    """The live and the warming generation of the table."""
    live = None if service.live is None else _served(service, service.live)
    rollout = service.rollout
    if rollout is None or rollout.phase is not RolloutPhase.WARMING:
        return live, None
    return live, _served(service, rollout.target)


def _served(service: Service, spec: Spec) -> ServedGeneration:
    shards = []
    for shard in spec.shards:
        places = sorted(
            (replica.replica_id, replica.address, replica.phase is ReplicaPhase.READY)
            for replica in service.replicas
            if (replica.generation, replica.shard_id) == (spec.generation, shard.shard_id)
            and replica.phase is not ReplicaPhase.STARTING
        )
        replicas = tuple(ReplicaPlace(*place) for place in places)
        shards.append(ShardPlace(shard.shard_id, shard.passages, shard.tokens, replicas))
    return ServedGeneration(spec.index, spec.generation, tuple(shards))
