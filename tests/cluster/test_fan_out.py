"""The whole fan-out in one process, over shards that are told how to behave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from fake_shards import (
    FETCH,
    QUERY,
    FakeShard,
    answers,
    fails,
    fan_out,
    generation,
    hangs,
    top,
    until,
)
from hypothesis import given

from cluster.fan_out import FanOut, all_or_first_error
from cluster.wire.types import ShardAnswer
from colbert_core.errors import (
    DeadlineExceeded,
    IndexMissing,
    InvalidInput,
    Overloaded,
    QueryError,
    TartanError,
    Unavailable,
)
from colbert_core.search import merge


def search(fan: FanOut, timeout_s: float = 60.0) -> Any:
    return asyncio.run(fan.search(QUERY, time.monotonic() + timeout_s))


def test_every_shard_is_asked_once_and_replies_keep_the_order_of_the_index() -> None:
    async def slowly() -> ShardAnswer:
        await asyncio.sleep(0.02)
        return ShardAnswer(top((7, 0.25)), 0.1)

    shards = [[FakeShard("a", slowly)], [FakeShard("b", answers((3, 0.5)))]]
    replies = search(fan_out(*shards))
    assert [reply.value.top.pids_K.tolist() for reply in replies] == [[7], [3]]
    assert [reply.attempts for reply in replies] == [1, 1]
    assert [replica.calls for (replica,) in shards] == [1, 1]


@pytest.mark.parametrize("error", [Unavailable("away"), IndexMissing("another generation")])
def test_what_may_be_repeated_is_repeated_once_on_another_replica(error: TartanError) -> None:
    sick, well = FakeShard("sick", fails(error)), FakeShard("well", answers((1, 1.0)))
    for _ in range(4):  # whichever is chosen first
        (reply,) = search(fan_out([sick, well]))
        assert reply.value.top.pids_K.tolist() == [1]
    assert well.calls == 4


def test_a_shard_without_an_answer_fails_the_request_and_is_named() -> None:
    gone = [FakeShard(f"r{n}", fails(Unavailable(f"r{n}: connection refused"))) for n in range(5)]
    with pytest.raises(Unavailable) as caught:
        search(fan_out([FakeShard("a", answers())], gone))
    message = str(caught.value)
    assert "shard s1 (2 of 2)" in message
    assert sum(replica.calls for replica in gone) == 3  # two retries, not one per replica
    assert message.count("connection refused") == 3


def test_a_shard_without_any_known_server_is_named_at_once() -> None:
    with pytest.raises(Unavailable, match=r"shard s0 \(1 of 1\).*no live server"):
        search(fan_out([]))


@pytest.mark.parametrize(
    "error", [Overloaded("256 calls under way"), QueryError("k is 0"), TartanError("a bug")]
)
def test_everything_else_is_not_repeated_and_keeps_its_class(error: TartanError) -> None:
    replicas = [FakeShard(name, fails(error)) for name in "ab"]
    with pytest.raises(type(error), match="shard s0 .*" + str(error)) as caught:
        search(fan_out(replicas))
    assert type(caught.value) is type(error)
    assert sum(replica.calls for replica in replicas) == 1


def test_a_shard_that_hangs_ends_with_the_callers_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"shard s1 \(2 of 2\) did not answer in the \d+ ms"):
        search(fan_out([FakeShard("a", answers())], [FakeShard("b", hangs)]), timeout_s=0.1)
    assert 0.05 < time.monotonic() - started < 30.0


def test_a_replica_that_hangs_is_given_up_for_another_while_there_is_time() -> None:
    stuck, well = FakeShard("stuck", hangs), FakeShard("well", answers((1, 1.0)))
    fan = fan_out([stuck, well], attempt_timeout_s=0.05)
    for _ in range(6):
        (reply,) = search(fan)
        assert reply.value.top.pids_K.tolist() == [1]
    assert stuck.calls >= 1
    with pytest.raises(Unavailable, match=r"stuck: no answer in 0\.1 s|no answer in 0\.0 s"):
        search(fan_out([FakeShard("stuck", hangs)], attempt_timeout_s=0.05))


def test_a_deadline_that_has_passed_asks_nobody() -> None:
    replica = FakeShard("a", answers())
    with pytest.raises(DeadlineExceeded, match="s0"):
        search(fan_out([replica]), timeout_s=-1.0)
    assert replica.calls == 0


def test_each_call_gets_what_is_left_of_the_deadline() -> None:
    replica = FakeShard("a", answers())
    search(fan_out([replica], attempt_timeout_s=600.0), timeout_s=60.0)
    search(fan_out([replica], attempt_timeout_s=0.5), timeout_s=60.0)
    assert 30.0 < replica.timeouts_s[0] <= 60.0
    assert replica.timeouts_s[1] == 0.5


def test_the_first_error_cancels_the_other_calls() -> None:
    cancelled = []

    async def notices() -> ShardAnswer:
        try:
            return await hangs()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(QueryError):  # and not after the deadline, for then it is another error
        search(fan_out([FakeShard("a", notices)], [FakeShard("b", fails(QueryError("bad")))]))
    assert cancelled == [True]


def test_outstanding_counts_return_to_zero_whatever_happens() -> None:
    fan = fan_out(
        [FakeShard("a", answers(), fails(Unavailable("x")), fails(QueryError("y")), hangs)]
    )
    for _ in range(4):
        with contextlib.suppress(TartanError):
            search(fan, timeout_s=0.05)
    assert [replica.outstanding for replica in fan.routes[0].replicas] == [0]


def test_replicas_share_the_load() -> None:
    replicas = [FakeShard(name, answers()) for name in "abc"]
    fan = fan_out(replicas)
    for _ in range(30):
        search(fan)
    assert all(replica.calls >= 5 for replica in replicas)


def test_a_busy_replica_is_avoided() -> None:
    async def run() -> tuple[int, int]:
        busy, idle = FakeShard("busy", hangs), FakeShard("idle", answers())
        fan = fan_out([busy, idle])
        fan.routes[0].replicas[0].outstanding = 5
        for _ in range(6):
            await fan.search(QUERY, time.monotonic() + 60.0)
        return busy.calls, idle.calls

    assert asyncio.run(run()) == (0, 6)


def test_replaced_replicas_are_used_by_the_next_query() -> None:
    """What is under way on a replica that left is finished, and then its connection is closed."""

    async def run() -> None:
        go_on = asyncio.Event()

        async def waits() -> ShardAnswer:
            await go_on.wait()
            return ShardAnswer(top((1, 1.0)), 0.5)

        old, new = FakeShard("old", waits), FakeShard("new", answers((2, 1.0)))
        known = {"old": old, "new": new}
        fan = FanOut(generation([old]), lambda address, _: known[address])
        under_way = asyncio.create_task(fan.search(QUERY, time.monotonic() + 5.0))
        await until(lambda: old.calls == 1)
        fan.update(generation([new]))
        assert fan.outstanding() == {"new": 0}
        (later,) = await fan.search(QUERY, time.monotonic() + 5.0)
        assert later.value.top.pids_K.tolist() == [2]
        assert not old.closed
        go_on.set()
        (reply,) = await under_way
        assert reply.value.top.pids_K.tolist() == [1]
        await until(lambda: old.closed)
        assert (old.calls, new.calls) == (1, 1)

    asyncio.run(run())


def test_a_draining_replica_is_asked_nothing_anew() -> None:
    async def run() -> None:
        draining, other = FakeShard("draining", answers()), FakeShard("other", answers())
        known = {"draining": draining, "other": other}
        served = generation([draining, other])
        fan = FanOut(served, lambda address, _: known[address])
        first, second = served.shards[0].replicas
        shard = replace(served.shards[0], replicas=(replace(first, admitting=False), second))
        fan.update(replace(served, shards=(shard,)))
        for _ in range(8):
            await fan.search(QUERY, time.monotonic() + 5.0)
        assert (draining.calls, other.calls) == (0, 8)
        shard = replace(shard, replicas=(replace(first, admitting=False),))
        fan.update(replace(served, shards=(shard,)))
        with pytest.raises(Unavailable, match="no live server"):
            await fan.search(QUERY, time.monotonic() + 5.0)
        fan.update(served)
        await fan.search(QUERY, time.monotonic() + 5.0)

    asyncio.run(run())


def test_a_table_of_other_shards_is_refused() -> None:
    fan = fan_out([FakeShard("a", answers())])
    with pytest.raises(InvalidInput, match="other shards of generation g"):
        fan.update(generation([], []))


def test_fetch_asks_only_the_shards_that_own_something() -> None:
    shards = [[FakeShard(name, answers())] for name in "abc"]
    fan = fan_out(*shards)
    fetched = asyncio.run(fan.fetch({2: FETCH}, time.monotonic() + 60.0))
    assert [passage.id for passage in fetched[2]] == ["c/1", "c/0"]
    assert [replica.calls for (replica,) in shards] == [0, 0, 1]
    assert asyncio.run(fan.fetch({}, time.monotonic() + 60.0)) == {}


def test_coverage_adds_up() -> None:
    coverage = fan_out([FakeShard("a", answers())], [FakeShard("b", answers())]).coverage()
    assert coverage.complete
    assert (
        coverage.shards_asked
        == coverage.shards_ok + coverage.shards_failed + coverage.shards_timed_out
        == 2
    )
    assert coverage.passages_searched == coverage.passages_total == 200


def test_close_closes_every_connection() -> None:
    replicas = [FakeShard(name, answers()) for name in "ab"]
    asyncio.run(fan_out(replicas).close())
    assert all(replica.closed for replica in replicas)


def test_cancelling_the_caller_cancels_every_call() -> None:
    async def run() -> None:
        fan = fan_out([FakeShard("a", hangs)], [FakeShard("b", hangs)])
        task = asyncio.create_task(fan.search(QUERY, time.monotonic() + 60.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [route.replicas[0].outstanding for route in fan.routes] == [0, 0]

    asyncio.run(run())


def test_all_or_first_error_of_nothing_is_nothing() -> None:
    assert asyncio.run(all_or_first_error([])) == []


@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), max_size=8), min_size=1, max_size=4),
    st.integers(1, 12),
)
def test_shards_merge_to_what_one_shard_would_give(shards: list[list[float]], k: int) -> None:
    """Few distinct scores, so that ties are the rule: corpus order breaks them."""
    parts = []
    for shard, scores in enumerate(shards):
        best = sorted(enumerate(scores), key=lambda found: (-found[1], found[0]))[:k]
        parts.append([FakeShard(f"x{shard}", answers(*best))])
    replies = search(fan_out(*parts))
    merged = merge([reply.value.top for reply in replies], k).located()
    corpus = itertools.chain.from_iterable(
        ((shard, pid, score) for pid, score in enumerate(scores))
        for shard, scores in enumerate(shards)
    )
    assert merged == sorted(corpus, key=lambda found: -found[2])[:k]
