"""Slow and dead replicas: choice, hedges, retries, ejection; the pure parts, then together."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import hypothesis.strategies as st
import pytest
from fake_shards import QUERY, FakeShard, Seen, answers, fails, fan_out, hangs, takes, until
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.fan_out import FanOut, TailPolicy
from cluster.fan_out.budget import Budget
from cluster.fan_out.choose import power_of_two
from cluster.fan_out.latency import NEEDED, RENEW_EVERY, MeanLatency, RecentLatency
from cluster.fan_out.sickness import Sickness, is_outlier, may_eject
from cluster.wire.types import ShardAnswer
from colbert_core.errors import (
    DeadlineExceeded,
    IndexCorrupt,
    InvalidInput,
    Overloaded,
    Unavailable,
)

LONG_S = 30.0


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 2**32))
def test_power_of_two_gives_one_of_them_and_never_the_only_busiest(
    outstanding: list[int], seed: int
) -> None:
    chosen = power_of_two(outstanding, random.Random(seed).randrange)
    if not outstanding:
        assert chosen is None
        return
    assert chosen is not None
    assert 0 <= chosen < len(outstanding)
    if len(outstanding) > 1 and outstanding.count(max(outstanding)) == 1:
        assert outstanding[chosen] < max(outstanding)


@given(st.integers(2, 6), st.integers(0, 1000))
def test_every_pair_of_equals_is_drawn(count: int, seed: int) -> None:
    draw = random.Random(seed).randrange
    assert {power_of_two([0] * count, draw) for _ in range(200)} == set(range(count))


@given(st.floats(0.01, 0.5), st.floats(0, 20), st.lists(st.booleans(), min_size=1, max_size=300))
def test_a_budget_is_never_overdrawn(share: float, burst: float, events: list[bool]) -> None:
    budget, earned, spent = Budget(share, burst), 0, 0
    for earn in events:
        if earn:
            budget.earn()
            earned += 1
        else:
            spent += budget.spend()
        assert spent <= burst + share * earned + 1e-6


def test_a_budget_is_not_mean_either() -> None:
    budget = Budget(0.05, 2)
    assert [budget.spend() for _ in range(3)] == [True, True, False]
    for _ in range(21):
        budget.earn()
    assert [budget.spend() for _ in range(2)] == [True, False]


@given(st.lists(st.floats(0, 10), min_size=NEEDED, max_size=600), st.floats(0.05, 1.0))
def test_a_percentile_is_one_of_the_recent_values(seconds: list[float], share: float) -> None:
    recent = RecentLatency(share)
    for added, value in enumerate(seconds, 1):
        recent.add(value)
        assert (recent.value is None) == (added < NEEDED)
    seen = seconds[: len(seconds) // RENEW_EVERY * RENEW_EVERY][-256:]
    assert recent.value in seen
    assert recent.value is not None
    below = sum(value <= recent.value for value in seen)
    assert below >= share * len(seen)


def test_a_mean_moves_towards_what_comes() -> None:
    mean = MeanLatency()
    for _ in range(NEEDED):
        mean.add(1.0)
    assert mean.known
    assert mean.seconds == pytest.approx(1.0)
    for _ in range(100):
        mean.add(3.0)
    assert mean.seconds == pytest.approx(3.0, abs=0.01)


@given(st.integers(0, 10))
def test_the_last_one_that_is_well_stays(well: int) -> None:
    assert may_eject(well) == (well >= 2)


def test_an_outlier_is_far_from_the_median_and_slow_at_all() -> None:
    policy = TailPolicy(outlier_factor=4.0, outlier_s=0.05)
    assert is_outlier(0.5, [0.1, 0.01], policy)
    assert not is_outlier(0.3, [0.1], policy)
    assert not is_outlier(0.04, [0.001], policy)
    assert not is_outlier(9.0, [], policy)


class SicknessMachine(RuleBasedStateMachine):
    """Against what is promised: three in a row eject, probes re-admit, times double and end."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = TailPolicy(eject_after=3, eject_s=1.0, eject_longest_s=8.0)
        self.sickness = Sickness(self.policy)
        self.now = 0.0
        self.in_a_row = 0
        self.until: float | None = None
        self.last_s = 0.0

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def succeeds(self) -> None:
        self.sickness.succeeded(self.now)
        if self.until is None:
            self.in_a_row = 0

    @rule()
    def fails(self) -> None:
        if self.sickness.failed():
            self.last_s = self.sickness.eject(self.now)
            self.until = self.now + self.last_s
            assert self.in_a_row >= 2
        self.in_a_row += self.until is None

    @precondition(lambda self: self.sickness.probe_due(self.now))
    @rule(answered=st.booleans())
    def is_probed(self, answered: bool) -> None:
        assert self.until is not None
        assert self.now >= self.until
        for_s = self.sickness.probed(self.now, answered)
        if answered:
            assert for_s == 0
            self.until, self.in_a_row = None, 2
        else:
            assert for_s == min(8.0, self.last_s * 2)
            self.until, self.last_s = self.now + for_s, for_s

    @invariant()
    def it_is_as_promised(self) -> None:
        assert self.sickness.ejected == (self.until is not None)
        assert not self.sickness.ejected or 1.0 <= self.last_s <= 8.0
        if self.until is None or self.now < self.until:
            assert not self.sickness.probe_due(self.now)


TestSickness = SicknessMachine.TestCase


def test_who_stayed_well_is_forgiven_and_who_did_not_is_not() -> None:
    policy = TailPolicy(eject_s=1.0, eject_longest_s=8.0)
    sickness = Sickness(policy)
    assert sickness.eject(0.0) == 1.0
    sickness.probed(1.0, True)
    assert sickness.failed()  # on guard: one is enough now
    assert sickness.eject(2.0) == 2.0
    sickness.probed(4.0, True)
    sickness.succeeded(11.9)
    assert sickness.eject(12.0) == 4.0
    sickness.probed(16.0, True)
    sickness.succeeded(24.0)
    assert sickness.eject(25.0) == 1.0


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"eject_after": 0}, "eject_after is 0"),
        ({"hedge_budget": -0.1}, "hedge_budget is -0.1"),
        ({"hedge_percentile": 0.0}, "hedge_percentile is 0"),
        ({"hedge_percentile": 1.5}, "switches hedging off"),
    ],
)
def test_impossible_policies(options: Any, part: str) -> None:
    with pytest.raises(InvalidInput, match=part):
        TailPolicy(**options).check()
    TailPolicy().check()


async def ask(fan: FanOut, timeout_s: float = LONG_S) -> list[int]:
    (reply,) = await fan.search(QUERY, time.monotonic() + timeout_s)
    pids: list[int] = reply.value.top.pids_K.tolist()  # type: ignore[union-attr]
    return pids


async def warm(fan: FanOut, seconds: float = 0.001) -> None:
    """As if there had been calls, all so fast."""
    for route in fan.routes:
        for _ in range(NEEDED):
            route.latency["search"].add(seconds)


def test_a_slow_call_is_hedged_and_the_slower_one_cancelled() -> None:
    async def run() -> None:
        seen = Seen()
        slow, quick = FakeShard("slow", hangs), FakeShard("quick", answers((1, 1.0)))
        fan = fan_out([slow, quick], observer=seen)
        await warm(fan)
        while not slow.calls:  # chance decides whom it meets first
            assert await ask(fan) == [1]
        assert seen.names("hedged") == ["quick"]
        assert seen.names("retried") == []
        (lost,) = [call for call in seen.calls if call.replica_id == "slow"]
        assert (lost.status, lost.hedge) == ("cancelled", False)
        assert [call.hedge for call in seen.calls if call.replica_id == "quick"][-1]
        assert fan.outstanding() == {"slow": 0, "quick": 0}

    asyncio.run(run())


def test_nothing_is_hedged_before_it_is_known_what_is_slow_nor_when_switched_off() -> None:
    async def run(**options: Any) -> int:
        seen = Seen()
        replicas = [FakeShard(name, takes(0.05, (1, 1.0))) for name in "ab"]
        fan = fan_out(replicas, observer=seen, **options)
        if options:
            await warm(fan)
        assert await ask(fan) == [1]
        return len(seen.events)

    assert asyncio.run(run()) == 0
    assert asyncio.run(run(hedge_percentile=1.0)) == 0
    assert asyncio.run(run(hedge_budget=0.0, hedge_burst=0.0)) == 0
    assert asyncio.run(run(hedge_percentile=0.95)) == 1


def test_hedges_stay_within_their_budget() -> None:
    async def run() -> None:
        seen = Seen()
        replicas = [FakeShard(name, takes(0.004, (1, 1.0))) for name in "ab"]
        fan = fan_out(
            replicas, observer=seen, hedge_after_s=0.0, hedge_burst=3.0, eject_after=10**6
        )
        await warm(fan, 0.0)
        for _ in range(10):
            await asyncio.gather(*(ask(fan) for _ in range(10)))
        assert 3 <= len(seen.names("hedged")) <= 3 + 0.05 * 100

    asyncio.run(run())


@pytest.mark.parametrize("error", [Overloaded("256 calls under way")])
def test_a_full_server_is_the_last_to_be_asked(error: Exception) -> None:
    async def run() -> None:
        seen = Seen()
        fan = fan_out([FakeShard("a", fails(error)), FakeShard("b", fails(error))], observer=seen)
        await warm(fan)
        with pytest.raises(Overloaded, match=r"shard s0 .*256 calls"):
            await ask(fan)
        assert len(seen.calls) == 1
        assert not seen.events

    asyncio.run(run())


def test_a_hedge_that_is_under_way_still_answers_for_a_full_server() -> None:
    async def run() -> None:
        full = Overloaded("full")

        async def slowly_full() -> ShardAnswer:
            await asyncio.sleep(0.05)
            raise full

        fan = fan_out([FakeShard("a", slowly_full), FakeShard("b", takes(0.2, (1, 1.0)))])
        await warm(fan)
        for _ in range(4):
            assert await ask(fan) == [1]

    asyncio.run(run())


@pytest.mark.parametrize("error", [Unavailable("gone"), IndexCorrupt("a byte is wrong")])
def test_a_replica_that_fails_is_ejected_and_asked_again_after_a_probe(error: Exception) -> None:
    async def run() -> None:
        seen = Seen()
        sick, well = FakeShard("sick", fails(error)), FakeShard("well", answers((1, 1.0)))
        fan = fan_out([sick, well], observer=seen, eject_s=0.05)
        probing = asyncio.create_task(fan.probe())
        while not seen.names("ejected"):
            assert await ask(fan) == [1]
        assert seen.names("ejected") == ["sick"]
        assert sick.calls == 3
        for _ in range(20):
            await ask(fan)
        assert sick.calls == 3
        await until(lambda: len(seen.names("ejected")) >= 2)  # the probe failed
        times = [event.for_s for kind, event in seen.events if kind == "ejected"]
        assert times[:2] == [0.05, 0.1]
        sick.becomes(answers((1, 1.0)))
        await until(lambda: seen.names("readmitted") == ["sick"])
        while sick.calls == 3:
            assert await ask(fan) == [1]
        probing.cancel()

    asyncio.run(run())


def test_the_last_replica_is_never_ejected_and_an_ejected_one_is_asked_rather_than_none() -> None:
    async def run() -> None:
        seen = Seen()
        replicas = [FakeShard(name, fails(Unavailable("gone"))) for name in "ab"]
        fan = fan_out(replicas, observer=seen)
        for _ in range(10):
            with pytest.raises(Unavailable):
                await ask(fan)
        assert len(seen.names("ejected")) == 1
        assert all(replica.calls == 10 for replica in replicas)
        alone = fan_out([FakeShard("a", fails(Unavailable("gone")))], observer=(seen := Seen()))
        for _ in range(10):
            with pytest.raises(Unavailable):
                await ask(alone)
        assert not seen.events

    asyncio.run(run())


def test_a_replica_that_loses_every_race_is_ejected() -> None:
    async def run() -> None:
        seen = Seen()
        paused, well = FakeShard("paused", hangs), FakeShard("well", answers((1, 1.0)))
        fan = fan_out([paused, well], observer=seen)
        await warm(fan)
        while not seen.names("ejected"):
            assert await ask(fan) == [1]
        assert seen.names("ejected") == ["paused"]
        assert paused.calls == 3

    asyncio.run(run())


def test_a_replica_far_slower_than_the_others_is_ejected() -> None:
    async def run() -> None:
        seen = Seen()
        slow, quick = (
            FakeShard("slow", takes(0.02, (1, 1.0))),
            FakeShard("quick", answers((1, 1.0))),
        )
        fan = fan_out(
            [slow, quick], observer=seen, outlier_s=0.01, hedge_percentile=1.0, outlier_factor=4.0
        )
        while not seen.names("ejected"):
            await ask(fan)
        (event,) = [event for kind, event in seen.events if kind == "ejected"]
        assert event.replica_id == "slow"
        assert "far more than the others" in event.reason

    asyncio.run(run())


def test_retries_have_a_budget_and_it_fills_again() -> None:
    async def run() -> None:
        well = FakeShard("well", answers((1, 1.0)))
        sick = FakeShard("sick", fails(Unavailable("gone")))
        fan = fan_out([sick, well], retry_budget=0.1, retry_burst=2.0, eject_after=10**6)
        failed = 0
        for _ in range(60):
            try:
                await ask(fan)
            except Unavailable:
                failed += 1
        assert sick.calls - failed <= 2 + 0.1 * 60
        assert failed > 0

    asyncio.run(run())


def test_a_replica_without_connection_is_passed_over() -> None:
    async def run() -> None:
        down, up = FakeShard("down", answers()), FakeShard("up", answers((1, 1.0)))
        down.up = False
        fan = fan_out([down, up])
        for _ in range(10):
            assert await ask(fan) == [1]
        assert down.calls == 0

    asyncio.run(run())


def test_of_three_dead_of_four_the_last_answers() -> None:
    async def run() -> None:
        dead = [FakeShard(f"dead{n}", fails(Unavailable("gone"))) for n in range(2)]
        fan = fan_out([*dead, FakeShard("well", answers((1, 1.0)))])
        for _ in range(10):
            assert await ask(fan) == [1]

    asyncio.run(run())


def test_a_late_first_attempt_may_still_win() -> None:
    """Half of its time is over, another is asked too, and hangs: the first one's answer counts."""

    async def run() -> None:
        first = FakeShard("first", takes(0.3, (7, 1.0)))
        second = FakeShard("second", hangs)
        second.up = False  # so that it is not the first to be asked
        fan = fan_out([first, second])
        (reply,) = await fan.search(QUERY, time.monotonic() + 0.5)
        assert isinstance(reply.value, ShardAnswer)  # type: ignore[union-attr]
        assert reply.value.top.pids_K.tolist() == [7]  # type: ignore[union-attr]
        assert second.calls == 1

    asyncio.run(run())


def test_a_deadline_with_every_replica_hanging_says_what_was_asked() -> None:
    async def run() -> None:
        fan = fan_out([FakeShard("a", hangs), FakeShard("b", hangs)])
        with pytest.raises(DeadlineExceeded, match=r"shard s0 .*did not answer"):
            await ask(fan, 0.2)
        assert fan.outstanding() == {"a": 0, "b": 0}

    asyncio.run(run())
