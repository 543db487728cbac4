"""Permits: bounds on calls, bytes, and what one client may have; refused at once, and why."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from local_cluster import DIM, LocalCluster, unit_vectors

from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.gateway_admission import CLIENTS_REMEMBERED, Admission
from cluster.gateway_config import GatewayConfig
from cluster.gateway_encoder import LazyEncoder
from cluster.gateway_gate import LEAST_MEASURED
from cluster.observer import Observer, QueryFinished, Refusal
from cluster.wire import shard as convert
from cluster.wire.tartan.shard.v1 import shard_pb2_grpc
from cluster.wire.types import ShardQuery
from colbert_core.errors import InvalidInput, Overloaded
from colbert_core.index import open_generation
from workers import shard_server
from workers.held_shard import HeldShard
from workers.shard_server import ShardServer

ONCE = RetryPolicy(attempts=1)


class Refusals(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def refused(self, reason: Refusal, client: str) -> None:
        self.seen.append((reason, client))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def admission(**config: Any) -> tuple[Admission, Clock, Refusals]:
    clock, refusals = Clock(), Refusals()
    return Admission(GatewayConfig(**config), refusals, clock), clock, refusals


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from("abc"), st.integers(0, 60)),
            st.integers(0, 20),  # the call at this place ends
        ),
        max_size=60,
    )
)
def test_bounds_hold_whatever_comes_and_goes(events: list[Any]) -> None:
    permits, _, _ = admission(max_concurrent=5, max_bytes=100, client_concurrent=3)
    held: list[tuple[str, int, ExitStack]] = []
    for event in events:
        if isinstance(event, int):
            if event < len(held):
                held.pop(event)[2].close()
        else:
            name, size = event
            mine = sum(one[0] == name for one in held)
            bytes_now = sum(one[1] for one in held)
            fits = len(held) < 5 and mine < 3 and (not held or bytes_now + size <= 100)
            stack = ExitStack()
            if fits:
                stack.enter_context(permits.admitted(name, size))
                held.append((name, size, stack))
            else:
                with pytest.raises(Overloaded):
                    stack.enter_context(permits.admitted(name, size))
        assert permits.under_way == len(held)
        assert permits.bytes == sum(one[1] for one in held)


def test_a_rate_is_a_bucket_that_fills_with_time() -> None:
    permits, clock, refusals = admission(client_qps=2.0)

    def ask(name: str = "a", queries: int = 1) -> bool:
        try:
            with permits.admitted(name, 1, queries):
                return True
        except Overloaded:
            return False

    assert [ask() for _ in range(3)] == [True, True, False]
    assert ask("b")
    assert refusals.seen == [("client_rate", "a")]
    clock.now += 0.5
    assert [ask() for _ in range(2)] == [True, False]
    clock.now += 60.0
    assert ask(queries=100)  # a batch, when nothing was asked for long
    clock.now += 40.0
    assert not ask()
    clock.now += 10.0
    assert ask()


@pytest.mark.parametrize(
    ("config", "sizes", "part", "reason"),
    [
        ({"max_concurrent": 2}, [1, 1, 1], r"2 calls are under way .* is 2 \(max_conc", "count"),
        ({"max_bytes": 100}, [60, 60], r"60 bytes .* has 60.* is 100 \(max_bytes", "bytes"),
        (
            {"client_concurrent": 1},
            [1, 1],
            r"client a has 1 calls .* is 1 \(client_conc",
            "client_count",
        ),
    ],
)
def test_a_refusal_says_which_limit(config: Any, sizes: list[int], part: str, reason: str) -> None:
    permits, _, refusals = admission(**config)
    with ExitStack() as held:
        for size in sizes[:-1]:
            held.enter_context(permits.admitted("a", size))
        with pytest.raises(Overloaded, match=part):
            held.enter_context(permits.admitted("a", sizes[-1]))
    assert refusals.seen == [(reason, "a")]


def test_a_message_beyond_max_bytes_is_let_in_alone() -> None:
    permits, _, _ = admission(max_bytes=10)
    with permits.admitted("a", 1000), pytest.raises(Overloaded), permits.admitted("a", 1):
        pass
    with permits.admitted("a", 1):
        pass


def test_clients_that_are_idle_are_forgotten_and_others_are_not() -> None:
    permits, _, _ = admission(client_concurrent=1)
    with permits.admitted("busy", 1):
        for number in range(CLIENTS_REMEMBERED + 100):
            with permits.admitted(f"c{number}", 1):
                pass
        assert len(permits._clients) <= CLIENTS_REMEMBERED + 1
        with pytest.raises(Overloaded), permits.admitted("busy", 1):
            pass


@pytest.mark.parametrize("name", ["max_concurrent", "max_bytes"])
def test_a_gateway_that_admits_nothing_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name} is 0"):
        GatewayConfig(**{name: 0}).check()  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="client_qps is -1"):
        GatewayConfig(client_qps=-1).check()


class Waiting:
    """An encoder that waits for the test, but not with the gateway's own first query."""

    def __init__(self) -> None:
        self.entered, self.free = threading.Event(), threading.Event()

    def encode_queries(self, texts: list[str]) -> list[Any]:
        if texts != ["warm-up"]:
            self.entered.set()
            assert self.free.wait(60.0)
        return [unit_vectors(np.random.default_rng(0), 3) for _ in texts]

    def query_tokens(self, text: str) -> list[str]:
        return ["t"] * 3

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        return []


@contextmanager
def busy(
    index: Path, config: GatewayConfig, observer: Observer | None = None
) -> Iterator[tuple[LocalCluster, Client]]:
    """A gateway with one query under way, which waits to be encoded."""
    waiting = Waiting()
    encoder = LazyEncoder("waiting", lambda: waiting)
    with (
        LocalCluster(index, encoder=encoder, gateway=config, observer=observer) as cluster,
        Client(cluster.address, retry=ONCE, timeout_s=60.0) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        try:
            under_way = pool.submit(client.search, "word")
            assert waiting.entered.wait(60.0)
            yield cluster, client
        finally:
            waiting.free.set()
        assert under_way.result(60.0).hits


@pytest.mark.parametrize(
    ("config", "part"),
    [
        (GatewayConfig(port=0, max_concurrent=1), r"1 calls are under way .*max_concurrent"),
        (GatewayConfig(port=0, max_bytes=100), r"the limit is 100 \(max_bytes"),
        (
            GatewayConfig(port=0, client_concurrent=1),
            r"client ipv4:127\.0\.0\.1 has 1 calls .*client_concurrent",
        ),
        (GatewayConfig(port=0, client_qps=1e-3), r"more than 0\.001 queries a second"),
    ],
)
def test_over_grpc_what_is_too_much_is_told_at_once(
    small_index: Path, config: GatewayConfig, part: str
) -> None:
    with busy(small_index, config) as (_, client):
        with pytest.raises(Overloaded, match=part):
            client.search(np.ones((1, DIM), np.float32))
        with pytest.raises(Overloaded, match=part):
            list(client.search_batch([np.ones((1, DIM), np.float32)]))
        assert client.info().passages == 150  # costs nothing, and is let in


class Finished(Observer):
    def __init__(self) -> None:
        self.refusals: list[Refusal] = []
        self.queries: list[QueryFinished] = []

    def refused(self, reason: Refusal, client: str) -> None:
        self.refusals.append(reason)

    def query_finished(self, event: QueryFinished) -> None:
        self.queries.append(event)


@pytest.mark.parametrize(("cache_bytes", "read"), [(0, False), (2**20, True)])
def test_a_search_that_would_be_late_is_refused_before_it_is_read(
    small_index: Path, cache_bytes: int, read: bool
) -> None:
    seen = Finished()
    config = GatewayConfig(port=0, work_at_once=1, answer_cache_bytes=cache_bytes)
    with busy(small_index, config, seen) as (cluster, client):
        gate = cluster.gateway._servicer._gate
        gate._interval_s, gate._measured = 4.0, LEAST_MEASURED  # as if a query took 4 s
        answered = cluster.gateway._servicer.queries
        with pytest.raises(Overloaded, match="answer takes about 8000 ms, and the deadline leaves"):
            client.search(np.ones((1, DIM), np.float32), k=7, timeout_s=8.0)
        assert seen.refusals == ["late"]
        (event,) = seen.queries
        assert (event.status, event.k) == ("RESOURCE_EXHAUSTED", 7 if read else 0)
        assert "answer takes about" in event.error
        assert cluster.gateway._servicer.queries == answered + 1
        assert client.info().passages == 150


def test_a_shard_server_drops_what_nobody_waits_for_any_more(
    small_index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is held; what is cancelled, or too late, when it gets it is not begun."""
    manifest = open_generation(small_index, shards=()).manifest
    held = HeldShard.open(small_index, manifest.generation, manifest.shards[0].id)
    entered, free, read = threading.Event(), threading.Event(), threading.Event()
    searched = []
    original, deadline_of = held.search, shard_server._deadline

    def search(query: ShardQuery, deadline: float) -> Any:
        searched.append(query.k)
        entered.set()
        assert free.wait(60.0)
        return original(query, deadline)

    def deadline_once_heard(context: grpc.ServicerContext) -> float:
        """What is given up goes on once the server has heard of it, which takes its own time."""
        given_up = dict(context.invocation_metadata()).get("given-up")
        if given_up == "read":
            read.set()
        if given_up:
            until = time.monotonic() + 60.0
            while context.is_active() and time.monotonic() < until:
                time.sleep(0.01)
        return deadline_of(context)

    monkeypatch.setattr(held, "search", search)
    monkeypatch.setattr(shard_server, "_deadline", deadline_once_heard)
    server = ShardServer(held, threads=1)
    server.start()

    with grpc.insecure_channel(server.address) as channel:
        stub = shard_pb2_grpc.ShardServiceStub(channel)

        def call(k: int, timeout: float = 60.0, given_up: str = "") -> Any:
            Q_LD = np.ones((1, DIM), np.float32)
            query = ShardQuery(held.generation, Q_LD, None, None, k, 1, 1, exact=True)
            message = convert.query_to_proto(query, held.identity.shard_id)
            return stub.Search.future(message, timeout=timeout, metadata=[("given-up", given_up)])

        first = call(1)
        assert entered.wait(60.0)
        late, queued = call(2, timeout=0.2, given_up="late"), call(3, given_up="queued")
        begun, waiting = call(4, given_up="read"), call(5)
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        queued.cancel()
        free.set()
        assert read.wait(60.0)
        begun.cancel()
        assert first.result().scored > 0
        assert len(convert.answer_from_proto(waiting.result()).top.pids_K) == 5
    assert searched == [1, 5]
    server.stop(0.0)
