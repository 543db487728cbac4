"""All shards of one generation: complete answers, partial answers, and what is missing of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from cluster.fan_out.attempts import Reply, ShardCall, Surroundings
from cluster.fan_out.budget import Budget
from cluster.fan_out.policy import TailPolicy
from cluster.fan_out.routes import Connect, Replica, ShardRoute, ShardTransport
from cluster.observer import CallKind, Observer, ReplicaEvent
from cluster.topology import ServedGeneration
from cluster.wire.types import (
    Coverage,
    FetchQuery,
    MissingShard,
    ShardAnswer,
    ShardQuery,
    StoredPassage,
)
from colbert_core.errors import DeadlineExceeded, InvalidInput, TartanError

T = TypeVar("T")

PROBE_INTERVAL_S = 0.1
REASON_CHARS = 300


class FanOut:
    """All shards of one generation, in the order of the index. Belongs to one event loop."""

    def __init__(
        self,
        served: ServedGeneration,
        connect: Connect,
        *,
        policy: TailPolicy | None = None,
        observer: Observer | None = None,
        draw: Callable[[int], int] = random.randrange,
    ) -> None:
        """
        Args:
            connect: makes the transport to a replica.
            draw: chance, for the choice of replicas.
        """
        policy = policy or TailPolicy()
        self.generation = served.generation
        self._around = Surroundings(
            served.generation,
            policy,
            Budget(policy.hedge_budget, policy.hedge_burst),
            Budget(policy.retry_budget, policy.retry_burst),
            observer or Observer(),
            draw,
        )
        self._connect = connect
        self._leaving: set[asyncio.Task[None]] = set()
        self._probing: set[Replica] = set()
        self.routes = tuple(
            ShardRoute(shard.shard_id, shard.passages, shard.tokens, policy)
            for shard in served.shards
        )
        self.update(served)

    def update(self, served: ServedGeneration) -> None:
        """Take over where replicas are now. Those that left finish what is under way.

        Raises:
            InvalidInput: the shards are not those of this generation.
        """
        by_id = {shard.shard_id: shard.replicas for shard in served.shards}
        if list(by_id) != [route.shard_id for route in self.routes]:
            raise InvalidInput(
                f"the routing table names other shards of generation {served.generation} "
                f"({', '.join(by_id)}) than are open: a generation's shards never change"
            )
        for route in self.routes:
            for replica in route.update(by_id[route.shard_id], self._connect):
                self._later(replica.leave())

    async def search(
        self, query: ShardQuery, deadline: float, *, partial: bool = False
    ) -> list[Reply[ShardAnswer] | MissingShard]:
        """Search every shard.

        Args:
            deadline: on time.monotonic().
            partial: let shards that do not answer be missing, instead of failing.

        Returns:
            One per shard, in the order of the index.

        Raises:
            Unavailable: a shard has no replica that answers.
            DeadlineExceeded: the deadline passed while waiting for a shard.
            TartanError: what a shard refused the query with; the message names the shard.
        """

        def ask(transport: ShardTransport, timeout_s: float) -> Awaitable[ShardAnswer]:
            return transport.search(query, timeout_s)

        return await all_or_first_error(
            [
                self._ask(index, "search", ask, deadline, partial)
                for index in range(len(self.routes))
            ]
        )

    async def fetch(
        self, queries: Mapping[int, FetchQuery], deadline: float, *, partial: bool = False
    ) -> dict[int, list[StoredPassage] | MissingShard]:
        """Fetch passages from the shards that own them; arguments and errors as in `search`.

        Args:
            queries: by shard index.

        Returns:
            Passages by shard index, in the order of each query's pids.
        """

        def asking(query: FetchQuery) -> Callable[..., Awaitable[list[StoredPassage]]]:
            return lambda transport, timeout_s: transport.fetch(query, timeout_s)

        replies = await all_or_first_error(
            [
                self._ask(index, "fetch", asking(query), deadline, partial)
                for index, query in queries.items()
            ]
        )
        return {
            index: reply if isinstance(reply, MissingShard) else reply.value
            for index, reply in zip(queries, replies, strict=True)
        }

    def coverage(self, missing: Sequence[MissingShard] = ()) -> Coverage:
        """The coverage of an answer that all shards but `missing` contributed to."""
        asked = len(self.routes)
        timed_out = sum(shard.timed_out for shard in missing)
        total = sum(route.passages for route in self.routes)
        lost = sum(shard.passages for shard in missing)
        return Coverage(
            shards_asked=asked,
            shards_ok=asked - len(missing),
            shards_failed=len(missing) - timed_out,
            shards_timed_out=timed_out,
            passages_searched=total - lost,
            passages_total=total,
            missing=tuple(missing),
        )

    def outstanding(self) -> dict[str, int]:
        """Calls under way for each replica id."""
        return {one.replica_id: one.outstanding for route in self.routes for one in route.replicas}

    def reachable(self) -> dict[str, bool]:
        """Whether each shard has a connected replica that may be asked; others begin to connect."""
        return {route.shard_id: route.reachable() for route in self.routes}

    def replica_states(self) -> dict[str, dict[str, int]]:
        """By shard, how many replicas are in each state."""
        return {route.shard_id: route.replica_states() for route in self.routes}

    async def probe(self) -> None:
        """Ask ejected replicas whose time is over how they are, from now on, until cancelled."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            now = time.monotonic()
            for route in self.routes:
                for replica in route.replicas:
                    if replica.sickness.probe_due(now) and replica not in self._probing:
                        self._probing.add(replica)
                        self._later(self._probe(route, replica))

    async def close(self) -> None:
        """Close every connection."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        for route in self.routes:
            for replica in route.replicas:
                await replica.transport.close()

    async def _ask(
        self,
        index: int,
        kind: CallKind,
        ask: Callable[[ShardTransport, float], Awaitable[T]],
        deadline: float,
        partial: bool,
    ) -> Reply[T] | MissingShard:
        route = self.routes[index]
        name = f"shard {route.shard_id} ({index + 1} of {len(self.routes)})"
        try:
            return await ShardCall(self._around, route, name, kind, ask, deadline).run()
        except InvalidInput:
            raise  # the query is wrong, whoever is asked
        except TartanError as error:
            if not partial:
                raise
            timed_out = isinstance(error, DeadlineExceeded)
            reason = str(error)[:REASON_CHARS]
            return MissingShard(route.shard_id, route.passages, timed_out, reason)

    async def _probe(self, route: ShardRoute, replica: Replica) -> None:
        policy = self._around.policy
        answered, reason = True, "it answered a probe"
        try:
            async with asyncio.timeout(policy.probe_timeout_s):
                await replica.transport.probe(self.generation, policy.probe_timeout_s)
        except (TartanError, TimeoutError) as error:
            answered, reason = False, f"it did not answer a probe: {error}"
        finally:
            self._probing.discard(replica)
        for_s = replica.sickness.probed(time.monotonic(), answered)
        event = ReplicaEvent(
            self.generation,
            route.shard_id,
            replica.replica_id,
            replica.transport.address,
            reason,
            for_s,
        )
        if answered:
            self._around.observer.readmitted(event)
        else:
            self._around.observer.ejected(event)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def all_or_first_error(calls: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run the calls together; the first error cancels the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
