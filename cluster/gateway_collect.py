"""From shards' answers to hits with their passages: merge, and fetch what was not sent along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.fan_out import FanOut, Reply
from cluster.gateway_clock import Clock
from cluster.wire.types import (
    Along,
    FetchQuery,
    MissingShard,
    SearchCall,
    ShardAnswer,
    StoredPassage,
)
from colbert_core.search import Located, merge
from colbert_core.types import F32

FETCH_SHARE = 0.5  # of the time left: a partial answer must still be given without a shard

ALWAYS_ALONG = 64  # so many passages cost less than another round trip

Replies = Sequence[Reply[ShardAnswer] | MissingShard]
Passages = dict[tuple[int, int], StoredPassage]
"""By (shard, ordinal within it)."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The merged hits with their passages, and the shards that they are not from."""

    located: list[Located]
    passages: list[StoredPassage]
    missing: Mapping[int, MissingShard]


def sent_along(call: SearchCall, k: int, shards: int) -> Along | None:
    """What each shard sends along with its best, which spares most queries the second round.

    Where passages lie at random, a shard owns k / shards of the hits, give or take the root of
    that; three times the root is seldom too few. Nothing where all shards together would send more
    than twice what is returned, and more than a round trip is worth. Nor where tokens are to be
    matched, which is done for the hits alone.
    """
    share = k / shards
    count = min(k, math.ceil(share + 3 * math.sqrt(share)))
    if call.explain or count * shards > max(2 * k, ALWAYS_ALONG):
        return None
    return Along(count, call.with_text, call.with_metadata)


@dataclass(frozen=True, slots=True)
class Collector:
    """Collects for one query, `query_LD` as the shards have it."""

    fan_out: FanOut
    call: SearchCall
    query_LD: F32
    clock: Clock

    async def collect(self, replies: Replies, k: int) -> Collected:
        """The best k of all shards. One that found something and then does not give its passages
        counts as missing, and what the others found is merged without it."""
        parts = [reply.value.top if isinstance(reply, Reply) else None for reply in replies]
        missing = {
            index: reply for index, reply in enumerate(replies) if isinstance(reply, MissingShard)
        }
        passages = _passages_of(replies)
        while True:
            with self.clock.stage("merge"):
                located = merge(parts, k).located()
            wanted = [(shard, pid) for shard, pid, _ in located if (shard, pid) not in passages]
            with self.clock.stage("fetch"):
                lost = await self._fetch(wanted, passages) if wanted else {}
            if not lost:
                in_order = [passages[shard, pid] for shard, pid, _ in located]
                return Collected(located, in_order, missing)
            missing |= lost
            for shard in lost:
                parts[shard] = None

    async def _fetch(
        self, wanted: Sequence[tuple[int, int]], passages: Passages
    ) -> dict[int, MissingShard]:
        """Add passages from the shards that own them; returns the shards that did not give
        theirs."""
        call, partial = self.call, self.call.allow_partial
        pids: dict[int, list[int]] = {}
        for shard, pid in wanted:
            pids.setdefault(shard, []).append(pid)
        queries = {
            shard: FetchQuery(
                self.fan_out.generation,
                np.asarray(owned, np.int64),
                with_text=call.with_text or call.explain,  # spans are found in the text
                with_metadata=call.with_metadata,
                query_LD=self.query_LD if call.explain else None,
            )
            for shard, owned in pids.items()
        }
        until = self.clock.share(FETCH_SHARE) if partial else self.clock.deadline
        fetched = await self.fan_out.fetch(queries, until, partial=partial)
        lost = {}
        for shard, given in fetched.items():
            if isinstance(given, MissingShard):
                lost[shard] = given
            else:
                passages |= zip(((shard, pid) for pid in pids[shard]), given, strict=True)
        return lost


def _passages_of(replies: Replies) -> Passages:
    """What was sent along: of each shard, those of its first ordinals."""
    passages: Passages = {}
    for shard, reply in enumerate(replies):
        if isinstance(reply, Reply):
            given = reply.value.passages
            first = reply.value.top.pids_K[: len(given)].tolist()
            passages |= zip(((shard, pid) for pid in first), given, strict=True)
    return passages
