"""What a gateway remembers: bounded, never wrong, never partial; one works for all alike."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from local_cluster import LocalCluster, unit_vectors

from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.gateway_cache import ENTRY_BYTES, ByteLru, SingleFlight, answer_key
from cluster.gateway_config import GatewayConfig
from cluster.gateway_encoder import LazyEncoder
from cluster.observer import CacheKind, Observer, QueryFinished
from cluster.wire.tartan.v1 import search_pb2
from colbert_core.errors import DeadlineExceeded, InvalidInput, Unavailable

ONCE = RetryPolicy(attempts=1)
CACHING = GatewayConfig(port=0, answer_cache_bytes=2**20)


def query(seed: int = 0) -> Any:
    return unit_vectors(np.random.default_rng(seed), 5)


class Lookups(Observer):
    def __init__(self) -> None:
        self.seen: list[tuple[str, bool]] = []
        self.queries: list[QueryFinished] = []

    def cache_asked(self, kind: CacheKind, hit: bool) -> None:
        self.seen.append((kind, hit))

    def query_finished(self, event: QueryFinished) -> None:
        self.queries.append(event)


@given(
    st.integers(0, 2000),
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 600)), max_size=60),
)
def test_a_cache_is_an_lru_of_bounded_bytes(
    most: int, events: list[tuple[int, int | None]]
) -> None:
    cache: ByteLru[int, int] = ByteLru(most)
    model: OrderedDict[int, int] = OrderedDict()
    for key, size in events:
        if size is None:
            assert cache.get(key) == model.get(key)
            if key in model:
                model.move_to_end(key)
            continue
        cache.put(key, size, size)
        if size + ENTRY_BYTES <= most:
            model.pop(key, None)
            model[key] = size
            while sum(model.values()) + ENTRY_BYTES * len(model) > most:
                model.popitem(last=False)
        assert len(cache) == len(model)
        assert cache.bytes == sum(model.values()) + ENTRY_BYTES * len(model) <= most


def test_a_key_is_all_that_an_answer_depends_on() -> None:
    def key(index: str = "ix", generation: str = "g", **fields: Any) -> bytes:
        return answer_key(index, generation, search_pb2.SearchRequest(**{"text": "a", **fields}))

    wanted = search_pb2.Filter(eq=search_pb2.EqFilter(field="f"))
    different = [
        key(),
        key(text="b"),
        key(index="other"),
        key(generation="h"),
        key(index="ixg", generation=""),
        key(k=3),
        key(recall=0.5),
        key(budget=search_pb2.SearchBudget(nprobe=1)),
        key(exact=True),
        key(with_text=False),
        key(with_metadata=False),
        key(explain=True),
        key(allow_partial=True),
        key(filter=wanted),
        answer_key("ix", "g", search_pb2.SearchRequest(vectors=search_pb2.Matrix(rows=1))),
    ]
    assert len(set(different)) == len(different)
    assert key(timings=True) == key()
    request = search_pb2.SearchRequest(text="a", timings=True)
    answer_key("ix", "g", request)
    assert request.timings


def test_of_many_who_ask_alike_one_works() -> None:
    async def run() -> None:
        flights: SingleFlight[str, int] = SingleFlight()
        worked, go_on = [], asyncio.Event()

        async def work() -> int:
            worked.append(1)
            await go_on.wait()
            return 7

        deadline = time.monotonic() + 60.0
        callers = [asyncio.create_task(flights.run("k", deadline, work)) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="the same query of another caller"):
            await flights.run("k", time.monotonic() + 0.01, work)
        go_on.set()
        assert await asyncio.gather(*callers) == [7] * 5
        assert len(worked) == 1
        assert await flights.run("k", deadline, work) == 7
        assert len(worked) == 2

    asyncio.run(run())


@pytest.mark.parametrize("how", ["fails", "is cancelled"])
def test_who_fails_fails_alone(how: str) -> None:
    async def run() -> None:
        flights: SingleFlight[str, int] = SingleFlight()
        began, go_on = asyncio.Event(), asyncio.Event()

        async def bad() -> int:
            began.set()
            await go_on.wait()
            raise Unavailable("gone")

        async def good() -> int:
            return 7

        deadline = time.monotonic() + 60.0
        first = asyncio.create_task(flights.run("k", deadline, bad))
        await began.wait()
        others = [asyncio.create_task(flights.run("k", deadline, good)) for _ in range(3)]
        await asyncio.sleep(0)
        if how == "fails":
            go_on.set()
        else:
            first.cancel()
        with pytest.raises((Unavailable, asyncio.CancelledError)):
            await first
        assert await asyncio.gather(*others) == [7] * 3

    asyncio.run(run())


def test_a_repeated_query_is_answered_from_the_cache_and_says_so(small_index: Path) -> None:
    lookups = Lookups()
    with (
        LocalCluster(small_index, gateway=CACHING, observer=lookups) as cluster,
        Client(cluster.address, retry=ONCE) as client,
    ):
        first = client.search(query(), k=5, timings=True)
        again = client.search(query(), k=5, timings=True)
        assert (first.cached, again.cached) == (False, True)
        assert (again.hits, again.coverage, again.params) == (
            first.hits,
            first.coverage,
            first.params,
        )
        assert again.timings_ms["total"] > 0
        assert not client.search(query(), k=5).timings_ms
        assert client.search(query(), k=6).hits[:5] == first.hits
        for servers in cluster.servers:
            servers[0].stop(0.0)
        assert client.search(query(), k=5).hits == first.hits
        with pytest.raises(Unavailable):
            client.search(query(1), k=5)
    answers = [hit for kind, hit in lookups.seen if kind == "answer"]
    assert answers == [False, True, True, False, True, False]
    asked = [event for event in lookups.queries if event.client]
    assert [event.cached for event in asked] == answers
    assert all(event.coverage is not None for event in asked if event.status == "OK")


def test_an_answer_that_misses_a_shard_is_not_kept(small_index: Path) -> None:
    with (
        LocalCluster(small_index, replicas=2, gateway=CACHING) as cluster,
        Client(cluster.address, retry=ONCE) as client,
    ):
        addresses = [server.address for server in cluster.servers[0]]
        cluster.route_to(0)
        partial = client.search(query(), allow_partial=True)
        assert partial.coverage.shards_ok == 2
        cluster.route_to(0, *addresses)
        whole = client.search(query(), allow_partial=True, timings=True)
        assert whole.coverage.complete
        assert not whole.cached


def test_without_a_size_nothing_is_kept(small_index: Path) -> None:
    lookups = Lookups()
    config = GatewayConfig(port=0, answer_cache_bytes=0, embedding_cache_bytes=0)
    with (
        LocalCluster(small_index, gateway=config, observer=lookups) as cluster,
        Client(cluster.address, retry=ONCE) as client,
    ):
        for _ in range(2):
            assert not client.search(query(), timings=True).cached
    assert not lookups.seen
    with pytest.raises(InvalidInput, match="answer_cache_bytes is -1"):
        GatewayConfig(answer_cache_bytes=-1).check()


class Counting:
    """Encodes a text as its length says, and counts."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_queries(self, texts: list[str]) -> list[Any]:
        self.texts += texts
        return [query(len(text)) for text in texts]

    def query_tokens(self, text: str) -> list[str]:
        return ["t"] * 5

    def passage_spans(self, text: str) -> list[tuple[int, int]]:
        return []


def test_a_text_is_encoded_once_whatever_else_is_asked(small_index: Path) -> None:
    counting = Counting()
    encoder = LazyEncoder("counting", lambda: counting, "identity")
    with (
        LocalCluster(small_index, encoder=encoder) as cluster,
        Client(cluster.address, retry=ONCE) as client,
    ):
        wanted = client.search(query(len("abc")), k=4).hits
        for k in (4, 5, 4):
            assert client.search("abc", k=k).hits[:4] == wanted
        client.search("abcd")
    assert counting.texts == ["warm-up", "abc", "abcd"]
