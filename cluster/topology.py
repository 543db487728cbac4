"""What runs where, as plain values: what a controller tells gateways, and what they tell it.

    controller ── RoutingTable ──▶ gateways        one long poll: `TableSource.watch`
               ◀─ GatewayReport ──

A table is versioned and complete; a gateway keeps the last one while the controller is away, so no
query touches the control plane. A new generation is switched to in two steps, so that nobody asks
one that is not ready everywhere:

    1. the table names it as `warming`: gateways open it, connect, answer a warm-up query, report it
       as `warmed` (or the `problem`, and the controller takes it back out);
    2. when every live gateway has warmed it, the table names it as `live`: each gateway answers
       new queries from it, and finishes those under way on the generation that they began with.
       When no gateway reports the old one as `in_use`, its shard servers end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ReplicaPlace:
    """One shard server.

    Attributes:
        replica_id: unique in a table, and the same for as long as its server holds the same shard
            of the same generation; a server that was restarted elsewhere keeps it.
        address: HOST:PORT.
        admitting: False while it drains: calls under way are finished, and no new ones begun.
    """

    replica_id: str
    address: str
    admitting: bool = True


@dataclass(frozen=True, slots=True)
class ShardPlace:
    """One shard and its servers now; there may be none."""

    shard_id: str
    passages: int
    tokens: int
    replicas: tuple[ReplicaPlace, ...] = ()


@dataclass(frozen=True, slots=True)
class ServedGeneration:
    """One generation of an index, with its shards in the order of the index."""

    index: str
    generation: str
    shards: tuple[ShardPlace, ...]


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Everything a gateway must know.

    Attributes:
        version: grows with every change, also over restarts of the controller.
        live: what queries are answered from.
        warming: what to make ready beside it, or None.
    """

    version: int
    live: ServedGeneration
    warming: ServedGeneration | None = None


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """What one gateway is doing; sent with every poll, at least once a second.

    Attributes:
        gateway_id: unique among gateways, new for each process.
        address: where it answers; "" until it does.
        version: of the table that it acts by; 0 before the first.
        live: the generation that new queries are answered from; "" before there is one.
        warmed: the `warming` generation, once it is ready here; else "".
        problem: why it cannot be made ready; "" while nothing is wrong.
        in_use: generations that queries are under way on, `live` included.
        in_flight: queries under way.
        queue_delay_ms: what queries waited before work on them began, a recent mean.
        cpu: share of one CPU that the process used of late.
        queries: queries answered since the process began.
        outstanding: calls under way for each replica id.
        draining: whether it refuses new queries because it is about to end.
    """

    gateway_id: str
    address: str = ""
    version: int = 0
    live: str = ""
    warmed: str = ""
    problem: str = ""
    in_use: tuple[str, ...] = ()
    in_flight: int = 0
    queue_delay_ms: float = 0.0
    cpu: float = 0.0
    queries: int = 0
    outstanding: Mapping[str, int] = field(default_factory=dict)
    draining: bool = False


class TableSource(Protocol):
    """Where a gateway learns the table from: the controller, or a fixed one in tests."""

    async def watch(self, report: GatewayReport) -> RoutingTable:
        """Hand in a report; wait for a table newer than `report.version`, for at most a second.

        Returns:
            The table now, newer or not.

        Raises:
            Unavailable: the controller is away; the gateway goes on by the table it has.
        """
