"""One question to one shard: the first attempt, hedges, retries, and who is sick for it.

    an attempt answers                  that is the answer; the other attempts are cancelled
    … is slower than its peers were     another replica is asked too: a hedge, of the hedge budget
    … has had half of its time          another replica is asked too, of the retry budget
    … fails, and another might not      another replica is asked, of the retry budget
    … says RESOURCE_EXHAUSTED           nobody else is asked: more load is the last thing needed
    … says that the query is wrong      the call fails at once

All calls only read, so asking twice is safe.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cluster.fan_out.budget import Budget
from cluster.fan_out.policy import TailPolicy
from cluster.fan_out.routes import Replica, ShardRoute, ShardTransport
from cluster.observer import CallKind, Observer, ReplicaEvent, ShardCallFinished
from cluster.wire.types import ShardAnswer
from colbert_core.errors import (
    DeadlineExceeded,
    IndexCorrupt,
    IndexMissing,
    Overloaded,
    TartanError,
    Unavailable,
)

T = TypeVar("T")

ELSEWHERE = (Unavailable, IndexMissing, IndexCorrupt)
"""What one replica may say and another need not."""


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """What a shard gave, and what it took on the gateway's clock, all attempts included."""

    value: T
    elapsed_ms: float
    attempts: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all calls of a fan-out share."""

    generation: str
    policy: TailPolicy
    hedges: Budget
    retries: Budget
    observer: Observer
    draw: Callable[[int], int]


@dataclass(eq=False, slots=True)
class _Attempt(Generic[T]):
    """One replica being asked."""

    replica: Replica
    began: float
    timeout_s: float
    hedge: bool
    task: asyncio.Task[T] = field(init=False)


class ShardCall(Generic[T]):
    """Use once: `await ShardCall(…).run()`."""

    def __init__(
        self,
        around: Surroundings,
        route: ShardRoute,
        name: str,
        kind: CallKind,
        ask: Callable[[ShardTransport, float], Awaitable[T]],
        deadline: float,
    ) -> None:
        """
        Args:
            name: of the shard, for messages.
            ask: puts the question to a transport, with a time-out in seconds.
            deadline: on time.monotonic().
        """
        self._around = around
        self._route = route
        self._name = name
        self._kind: CallKind = kind
        self._ask = ask
        self._deadline = deadline
        self._started = time.monotonic()
        self._tried: list[Replica] = []
        self._running: list[_Attempt[T]] = []
        self._causes: list[str] = []
        self._full: Overloaded | None = None
        self._may_hedge = True
        self._may_lose_patience = True

    async def run(self) -> Reply[T]:
        """The answer of the first replica that gives one.

        Raises:
            Unavailable: no replica answers; the message says what each did.
            DeadlineExceeded: the time is over.
            TartanError: what the shard refused the question with.
        """
        self._around.hedges.earn()
        self._around.retries.earn()
        self._begin(hedge=False)
        try:
            while self._running:
                if not (ended := await self._ended()):
                    self._ask_another_too()
                for attempt in ended:
                    if (reply := self._settle(attempt)) is not None:
                        return reply
            raise self._error()
        finally:
            await self._cancel_rest()

    def _begin(self, *, hedge: bool) -> Replica | None:
        """Ask one more replica, if there is one and there is time."""
        replica = self._route.choose(self._tried, self._around.draw)
        now = time.monotonic()
        if replica is None or now >= self._deadline:
            return None
        timeout_s = min(self._deadline - now, self._around.policy.attempt_timeout_s)
        attempt = _Attempt[T](replica, now, timeout_s, hedge)
        attempt.task = asyncio.create_task(self._attempt(attempt))
        self._tried.append(replica)
        self._running.append(attempt)
        return replica

    async def _attempt(self, attempt: _Attempt[T]) -> T:
        status = "cancelled"
        search_ms = 0.0
        try:
            with attempt.replica.working():
                async with asyncio.timeout(attempt.timeout_s):
                    value = await self._ask(attempt.replica.transport, attempt.timeout_s)
            status = "OK"
            search_ms = value.search_ms if isinstance(value, ShardAnswer) else 0.0
            return value
        except TimeoutError:
            status = DeadlineExceeded.__name__
            raise
        except TartanError as error:
            status = type(error).__name__
            raise
        finally:
            self._around.observer.shard_call_finished(
                ShardCallFinished(
                    self._kind,
                    self._around.generation,
                    self._route.shard_id,
                    attempt.replica.replica_id,
                    attempt.replica.transport.address,
                    attempt.began,
                    (time.monotonic() - attempt.began) * 1e3,
                    status,
                    attempt.hedge,
                    search_ms,
                )
            )

    async def _ended(self) -> list[_Attempt[T]]:
        """Attempts that have ended; none where it is time to ask another replica too."""
        tasks = [attempt.task for attempt in self._running]
        await asyncio.wait(tasks, timeout=self._patience_s(), return_when=asyncio.FIRST_COMPLETED)
        return [attempt for attempt in self._running if attempt.task.done()]

    def _patience_s(self) -> float | None:
        """Seconds until another replica is asked too; None: never."""
        if not self._may_ask_more():
            return None
        newest = self._running[-1]
        after_s = newest.timeout_s / 2 if self._may_lose_patience else None
        if self._may_hedge and (hedge_s := self._hedge_after_s()) is not None:
            after_s = hedge_s if after_s is None else min(after_s, hedge_s)
        return None if after_s is None else max(0.0, newest.began + after_s - time.monotonic())

    def _hedge_after_s(self) -> float | None:
        policy = self._around.policy
        usual_s = self._route.latency[self._kind].value
        if policy.hedge_percentile >= 1 or usual_s is None:
            return None
        return max(policy.hedge_after_s, usual_s)

    def _may_ask_more(self) -> bool:
        policy = self._around.policy
        if self._full is not None or len(self._tried) >= policy.max_attempts:
            return False
        return any(one.admitting and one not in self._tried for one in self._route.replicas)

    def _ask_another_too(self) -> None:
        newest = self._running[-1]
        waited_s = time.monotonic() - newest.began
        if waited_s < newest.timeout_s / 2:  # a hedge; without budget there is still patience
            self._may_hedge = False
            if self._around.hedges.spend() and (replica := self._begin(hedge=True)):
                reason = f"no answer after {waited_s * 1e3:.0f} ms"
                self._around.observer.hedged(self._event(replica, reason))
        else:  # where nobody else can be asked, what is under way is waited for
            self._may_lose_patience = self._retry(f"no answer in {waited_s:.1f} s", hedge=True)

    def _retry(self, reason: str, *, hedge: bool = False) -> bool:
        if not self._may_ask_more() or not self._around.retries.spend():
            return False
        if (replica := self._begin(hedge=hedge)) is None:
            return False
        self._around.observer.retried(self._event(replica, reason))
        return True

    def _settle(self, attempt: _Attempt[T]) -> Reply[T] | None:
        """What an ended attempt means: an answer, or None and perhaps another attempt."""
        self._running.remove(attempt)
        now = time.monotonic()
        address = attempt.replica.transport.address
        try:
            value = attempt.task.result()
        except (TimeoutError, DeadlineExceeded):
            self._causes.append(f"{address}: no answer in {now - attempt.began:.1f} s")
            self._failed(attempt.replica, "it did not answer in time", now)
        except ELSEWHERE as error:
            self._causes.append(str(error))
            self._failed(attempt.replica, str(error), now)
        except Overloaded as error:
            self._full = error
            return None
        except TartanError as error:
            raise type(error)(f"{self._name}: {error}") from error
        else:
            self._won(attempt, now)
            elapsed_ms = (now - self._started) * 1e3
            return Reply(value, elapsed_ms, len(self._tried))
        self._retry(self._causes[-1])
        return None

    def _won(self, winner: _Attempt[T], now: float) -> None:
        route = self._route
        reason = route.answered(winner.replica, self._kind, now - winner.began, now)
        if reason:
            self._eject(winner.replica, reason, now)
        for other in self._running:
            if other.began < winner.began and not other.task.done():
                self._failed(other.replica, "another replica that was asked later was faster", now)

    def _failed(self, replica: Replica, reason: str, now: float) -> None:
        if replica.sickness.failed():
            self._eject(replica, reason, now)

    def _eject(self, replica: Replica, reason: str, now: float) -> None:
        if for_s := self._route.eject(replica, now):
            self._around.observer.ejected(self._event(replica, reason, for_s))

    def _event(self, replica: Replica, reason: str, for_s: float = 0.0) -> ReplicaEvent:
        return ReplicaEvent(
            self._around.generation,
            self._route.shard_id,
            replica.replica_id,
            replica.transport.address,
            reason,
            for_s,
        )

    def _error(self) -> TartanError:
        """Why there is no answer."""
        if self._full is not None:
            return Overloaded(f"{self._name}: {self._full}")
        causes = "; ".join(self._causes)
        if time.monotonic() >= self._deadline:
            waited_ms = (time.monotonic() - self._started) * 1e3
            before = f" ({causes})" if causes else ""
            return DeadlineExceeded(
                f"{self._name} did not answer in the {waited_ms:.0f} ms that the deadline "
                f"left{before}: give more time, or ask for less (smaller k, lower recall)"
            )
        return Unavailable(
            f"{self._name} does not answer ({causes or 'no live server'}): try again in a few "
            "seconds; if it lasts, see the shard server's log"
        )

    async def _cancel_rest(self) -> None:
        """End what is still under way: nobody waits for it."""
        for attempt in self._running:
            attempt.task.cancel()
        if self._running:
            tasks = (attempt.task for attempt in self._running)
            await asyncio.gather(*tasks, return_exceptions=True)
