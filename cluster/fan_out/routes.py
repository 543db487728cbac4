"""A shard, and the replicas that hold it now. Replicas come, move, drain and leave at any time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from cluster.fan_out.choose import power_of_two
from cluster.fan_out.latency import MeanLatency, RecentLatency
from cluster.fan_out.policy import TailPolicy
from cluster.fan_out.sickness import Sickness, is_outlier, may_eject
from cluster.topology import ReplicaPlace
from cluster.wire.types import FetchQuery, ShardAnswer, ShardQuery, StoredPassage

LEAVING_S = 60.0
STATES = ("draining", "ejected", "up", "away")


class ShardTransport(Protocol):
    """One replica of one shard. Errors are those of colbert_core/errors.py."""

    @property
    def address(self) -> str:
        """Where it is, for messages."""

    def connected(self) -> bool:
        """Whether there is a connection now; where there is none, it begins to be made."""

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:
        """The shard's best passages."""

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:
        """Passages in the order of `query.pids_M`."""

    async def probe(self, generation: str, timeout_s: float) -> None:
        """Return if it answers and holds its shard of the generation."""

    async def close(self) -> None:
        """Let go of the connection."""


Connect = Callable[[str, str], ShardTransport]
"""(address, shard id) → a transport."""


class Replica:
    """One replica: a transport, what is under way on it, and how it is."""

    def __init__(self, replica_id: str, transport: ShardTransport, policy: TailPolicy) -> None:
        self.replica_id = replica_id
        self.transport = transport
        self.admitting = True
        self.outstanding = 0
        self.sickness = Sickness(policy)
        self.latency = MeanLatency()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count one call for as long as the block runs."""
        self.outstanding += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.outstanding -= 1
            if not self.outstanding:
                self._idle.set()

    @property
    def state(self) -> str:
        """One of STATES, the first that holds."""
        if not self.admitting:
            return "draining"
        if self.sickness.ejected:
            return "ejected"
        return "up" if self.transport.connected() else "away"

    async def leave(self) -> None:
        """Let go of the connection once nothing is under way on it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_S):
                await self._idle.wait()
        await self.transport.close()


class ShardRoute:
    """One shard: its size, its replicas, and what its calls took of late."""

    def __init__(
        self, shard_id: str, passages: int, tokens: int, policy: TailPolicy | None = None
    ) -> None:
        self.shard_id = shard_id
        self.passages = passages
        self.tokens = tokens
        self.policy = policy or TailPolicy()
        self.replicas: tuple[Replica, ...] = ()
        self.latency = {
            kind: RecentLatency(self.policy.hedge_percentile) for kind in ("search", "fetch")
        }

    def update(self, places: Sequence[ReplicaPlace], connect: Connect) -> list[Replica]:
        """Make `places` the replicas. One that is where it was keeps its connection and state.

        Returns:
            Those that left; they are asked nothing anew, and whoever calls lets them `leave`.
        """
        known = {(one.replica_id, one.transport.address): one for one in self.replicas}
        replicas = []
        for place in places:
            replica = known.pop((place.replica_id, place.address), None)
            if replica is None:
                transport = connect(place.address, self.shard_id)
                replica = Replica(place.replica_id, transport, self.policy)
            replica.admitting = place.admitting
            replicas.append(replica)
        self.replicas = tuple(replicas)
        return list(known.values())

    def reachable(self) -> bool:
        """Whether any replica that may be asked is connected; others begin to connect."""
        connected = [one.transport.connected() for one in self.replicas if one.admitting]
        return any(connected)

    def replica_states(self) -> dict[str, int]:
        """How many replicas are in each state, also in those that none is in."""
        states = [one.state for one in self.replicas]
        return {state: states.count(state) for state in STATES}

    def choose(self, tried: Collection[Replica], draw: Callable[[int], int]) -> Replica | None:
        """The replica to ask next, or None when all were tried.

        Those that are well and connected come first; then the well; then any, since a shard whose
        replicas all look sick is better asked than given up.
        """
        untried = [one for one in self.replicas if one.admitting and one not in tried]
        well = [one for one in untried if not one.sickness.ejected]
        connected = [one for one in well if one.transport.connected()]
        best = connected or well or untried
        chosen = power_of_two([one.outstanding for one in best], draw)
        return None if chosen is None else best[chosen]

    def answered(self, replica: Replica, kind: str, seconds: float, now: float) -> str:
        """Note a call that was answered; returns why the replica should be ejected, or ""."""
        self.latency[kind].add(seconds)
        replica.sickness.succeeded(now)
        if kind != "search":
            return ""
        replica.latency.add(seconds)
        others = [
            one.latency.seconds
            for one in self.replicas
            if one is not replica and one.latency.known and not one.sickness.ejected
        ]
        if replica.latency.known and is_outlier(replica.latency.seconds, others, self.policy):
            mean_ms = replica.latency.seconds * 1e3
            return f"it took {mean_ms:.0f} ms a search of late, far more than the others"
        return ""

    def eject(self, replica: Replica, now: float) -> float:
        """Eject a replica, unless it is the last one that is well; returns for how many seconds."""
        well = [one for one in self.replicas if one.admitting and not one.sickness.ejected]
        if replica not in well or not may_eject(len(well)):
            return 0.0
        replica.latency = MeanLatency()
        return replica.sickness.eject(now)
