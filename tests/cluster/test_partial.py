"""Partial answers: right for what they cover, exact about what they do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from fake_shards import QUERY, Behaviour, FakeShard, answers, fails, fan_out, hangs
from hypothesis import given, settings
from local_cluster import LocalCluster, served, unit_vectors

from cluster.client import Client
from cluster.client_retry import RetryPolicy
from cluster.fan_out import Reply
from cluster.gateway_encoding import EncodeQueue
from cluster.gateway_generation import Equipment, OpenGeneration
from cluster.wire.types import (
    FetchQuery,
    MissingShard,
    SearchCall,
    ShardAnswer,
    ShardQuery,
    StoredPassage,
)
from colbert_core.api import Index
from colbert_core.errors import DeadlineExceeded, Overloaded, QueryError, TartanError, Unavailable
from colbert_core.index import open_generation
from workers.held_shard import HeldShard

ONCE = RetryPolicy(attempts=1)
FAULTS: dict[str, Behaviour | None] = {
    "ok": None,
    "away": fails(Unavailable("connection refused")),
    "full": fails(Overloaded("full")),
    "broken": fails(TartanError("internal error")),
    "hangs": hangs,
}


def query(seed: int = 0) -> Any:
    return unit_vectors(np.random.default_rng(seed), 5)


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from(sorted(FAULTS)), max_size=3), min_size=1, max_size=5))
def test_coverage_always_adds_up(shards: list[list[str]]) -> None:
    """Every shard is asked; each is ok, failed or timed out, and named where it is not ok."""
    replicas = [
        [
            FakeShard(f"s{number}r{at}", FAULTS[fault] or answers((1, 1.0)))
            for at, fault in enumerate(faults)
        ]
        for number, faults in enumerate(shards)
    ]

    hangs = any("hangs" in faults for faults in shards)

    async def run(partial: bool) -> Any:
        fan = fan_out(*replicas)
        deadline = time.monotonic() + (0.05 if hangs else 10.0)
        replies = await fan.search(QUERY, deadline, partial=partial)
        missing = [reply for reply in replies if isinstance(reply, MissingShard)]
        return fan.coverage(missing), replies

    coverage, replies = asyncio.run(run(True))
    assert coverage.shards_asked == len(shards)
    assert (
        coverage.shards_ok + coverage.shards_failed + coverage.shards_timed_out
        == coverage.shards_asked
    )
    assert coverage.shards_ok == sum(isinstance(reply, Reply) for reply in replies)
    assert coverage.passages_total == 100 * len(shards)
    assert coverage.passages_searched == 100 * coverage.shards_ok
    for number, (faults, reply) in enumerate(zip(shards, replies, strict=True)):
        if set(faults) == {"ok"}:
            assert isinstance(reply, Reply)
        if "ok" not in faults:
            assert isinstance(reply, MissingShard)
            assert reply.shard_id == f"s{number}"
            assert f"shard s{number} ({number + 1} of {len(shards)})" in reply.reason
        if set(faults) == {"hangs"}:
            assert reply.timed_out
        if faults and not hangs and set(faults) <= {"away", "full", "broken"}:
            assert not reply.timed_out
    if all(set(faults) == {"ok"} for faults in shards):
        assert asyncio.run(run(False))[0] == coverage
    elif any("ok" not in faults for faults in shards):
        with pytest.raises(TartanError):
            asyncio.run(run(False))


def test_a_wrong_query_fails_whatever_is_allowed() -> None:
    fan = fan_out([FakeShard("a", answers())], [FakeShard("b", fails(QueryError("k is 0")))])
    with pytest.raises(QueryError, match="k is 0"):
        asyncio.run(fan.search(QUERY, time.monotonic() + 1.0, partial=True))


class InProcess:
    """A shard without a server, which fails as it is told: in searches, and in fetches."""

    def __init__(self, held: HeldShard) -> None:
        self.address = held.identity.shard_id
        self._held = held
        self.faults = ("ok", "ok")
        self.sends_along = True

    async def search(self, query: ShardQuery, timeout_s: float) -> ShardAnswer:
        if (fault := FAULTS[self.faults[0]]) is not None:
            await fault()
        if not self.sends_along:  # like a server that does not know of it
            query = replace(query, along=None)
        return self._held.search(query, time.monotonic() + 60.0)

    async def fetch(self, query: FetchQuery, timeout_s: float) -> list[StoredPassage]:
        if (fault := FAULTS[self.faults[1]]) is not None:
            await fault()
        return self._held.fetch(query, time.monotonic() + 60.0)

    async def probe(self, generation: str, timeout_s: float) -> None:
        pass

    def connected(self) -> bool:
        return True

    async def close(self) -> None:
        pass


class Whole:
    """The index in one process, as what partial answers are held to."""

    def __init__(self, path: Path) -> None:
        self.index = Index.open(path)
        self.manifest = self.index.manifest
        self.shards = {
            shard.id: InProcess(HeldShard.open(path, self.manifest.generation, shard.id))
            for shard in self.manifest.shards
        }
        self.path = path
        self.shard_of = {
            self.shards[shard.id]._held.shard.stored(pid).id: shard.id
            for shard in self.manifest.shards
            for pid in range(shard.passages)
        }

    def best(self, Q_LD: Any, k: int, ok: set[str]) -> list[tuple[str, float]]:
        """The truth: of all passages of the shards that are there, the best k."""
        hits = self.index.search(Q_LD, k=len(self.shard_of), exact=True)
        return [(hit.id, hit.score) for hit in hits if self.shard_of[hit.id] in ok][:k]


@pytest.fixture(scope="module")
def whole(small_index: Path) -> Whole:
    return Whole(small_index)


faults = st.sampled_from([*FAULTS, "ok", "ok"])


@settings(max_examples=25)
@given(
    faults=st.lists(st.tuples(faults, faults), min_size=3, max_size=3),
    k=st.integers(1, 60),
    along=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_a_partial_answer_is_the_truth_of_the_shards_that_it_names(
    whole: Whole, faults: list[tuple[str, str]], k: int, along: list[bool]
) -> None:
    for transport, fault, sends in zip(whole.shards.values(), faults, along, strict=True):
        transport.faults, transport.sends_along = fault, sends
    Q_LD = query(k)

    async def run(partial: bool) -> Any:
        addresses = [[shard.id] for shard in whole.manifest.shards]
        opened = open_generation(whole.path, shards=())
        with ThreadPoolExecutor(1) as executor:
            encoding = EncodeQueue(executor, threads=1)
            equipment = Equipment(lambda address, _: whole.shards[address], executor, encoding)
            generation = OpenGeneration(
                served(whole.path, whole.manifest, addresses), opened, equipment
            )
            call = SearchCall(query_LD=Q_LD, k=k, exact=True, allow_partial=partial)
            try:
                return (await generation.pipeline.search(call, time.monotonic() + 0.25)).answer
            finally:
                await generation.close()

    answer = asyncio.run(run(True))
    coverage = answer.coverage
    lost = {shard.shard_id for shard in coverage.missing}
    ok = set(whole.shards) - lost
    assert [(hit.id, hit.score) for hit in answer.hits] == whole.best(Q_LD, k, ok)
    assert [shard.shard_id for shard in answer.shard_timings] == [
        shard for shard in whole.shards if shard in ok
    ]
    assert coverage.shards_asked == 3
    assert coverage.shards_ok == len(ok)
    assert coverage.shards_failed + coverage.shards_timed_out == len(lost)
    sizes = {shard.id: shard.live_passages for shard in whole.manifest.shards}
    assert coverage.passages_searched == sum(sizes[shard] for shard in ok)
    assert coverage.passages_total == 150
    for shard, (in_search, in_fetch) in zip(whole.shards, faults, strict=True):
        if in_search != "ok":
            assert shard in lost
        if in_search == in_fetch == "ok":
            assert shard in ok
    if lost:
        with pytest.raises((Unavailable, Overloaded, DeadlineExceeded, TartanError)):
            asyncio.run(run(False))


@pytest.fixture
def cluster(small_index: Path) -> Iterator[LocalCluster]:
    with LocalCluster(small_index) as cluster:
        yield cluster


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_over_real_servers_what_is_gone_is_named(
    cluster: LocalCluster, whole: Whole, lost: int
) -> None:
    for servers in cluster.servers[:lost]:
        servers[0].stop(0.0)
    shards = [shard.id for shard in whole.manifest.shards]
    Q_LD = query()
    with Client(cluster.address, retry=ONCE, timeout_s=20.0) as client:
        answer = client.search(Q_LD, k=20, exact=True, allow_partial=True)
        coverage = answer.coverage
        assert [shard.shard_id for shard in coverage.missing] == shards[:lost]
        assert (coverage.shards_asked, coverage.shards_ok, coverage.shards_failed) == (
            3,
            3 - lost,
            lost,
        )
        assert coverage.complete == (lost == 0)
        assert all("does not answer" in shard.reason for shard in coverage.missing)
        got = [(hit.id, hit.score) for hit in answer.hits]
        assert got == whole.best(Q_LD, 20, set(shards[lost:]))
        if lost:
            # Of several the search names the one that it heard of first.
            named = "|".join(
                rf"shard {shard} \({number} of 3\)" for number, shard in enumerate(shards[:lost], 1)
            )
            with pytest.raises(Unavailable, match=named):
                client.search(Q_LD, exact=True)
