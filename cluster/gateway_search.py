"""One query through the gateway: check, encode, probe once, fan out, merge, fetch, explain.

Nothing a query does changes the next one. What takes long (the model, a table of many centroids)
runs in a small thread pool, so that the event loop moves bytes and does little else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TypeVar

from cluster.fan_out import FanOut, Reply
from cluster.gateway_clock import Clock
from cluster.gateway_collect import Collected, Collector, sent_along
from cluster.gateway_encoder import LazyEncoder
from cluster.gateway_encoding import EncodeQueue
from cluster.gateway_explain import token_matches
from cluster.gateway_limits import check_call, check_filter_size, check_probes, check_vectors
from cluster.wire.types import (
    Limits,
    SearchAnswer,
    SearchCall,
    ShardAnswer,
    ShardQuery,
    ShardTiming,
)
from colbert_core.codec import Codec
from colbert_core.errors import DeadlineExceeded
from colbert_core.filters import check_filter
from colbert_core.search import derive_params
from colbert_core.types import F32, I32, Hit, SearchParams, TokenMatch

T = TypeVar("T")

# A partial answer must still be merged and fetched when a shard has used up its time.
SEARCH_SHARE = 0.8

# Products of a probe that take no longer than handing it to a thread and coming back: 32 tokens and
# 32,768 centroids of 128 dimensions are eight times as many, and take half a millisecond.
PROBED_AT_ONCE = 2**24


@dataclass(frozen=True, slots=True)
class Prepared:
    """A query ready for the shards: rotated and probed; `tokens` name its rows (none: vectors)."""

    query_LD: F32
    probes: tuple[I32, F32] | None
    tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """An answer, and each hit's metadata as stored: it is passed on without being parsed."""

    answer: SearchAnswer
    metadata_json: tuple[str, ...]


@dataclass(frozen=True)
class SearchPipeline:
    """What a gateway searches with: one generation's codec and encoder, and its shards."""

    generation: str
    codec: Codec
    encoder: LazyEncoder
    encoding: EncodeQueue
    fan_out: FanOut
    limits: Limits
    executor: Executor = field(repr=False)
    derive: Callable[..., SearchParams] = derive_params  # with the presets of the index
    pooled: bool = False  # tokens were pooled: which text a vector stands for is not stored
    fields: Mapping[str, str] = field(default_factory=dict)  # what passages can be filtered by

    async def search(self, call: SearchCall, deadline: float, clock: Clock | None = None) -> Found:
        """Answer one query, always with timings.

        Args:
            deadline: on time.monotonic().
            clock: where stages are noted, also of a query that fails; its own by default.

        Raises:
            QueryError: a value of the call is not possible; nothing was done.
            ModelError: the call is text and the index has no model.
            Unavailable: a shard does not answer; the message names it.
            DeadlineExceeded: the time is over; the message says what was waited for.
        """
        clock = clock or Clock(deadline)
        params = check_call(call, self.limits, self.derive)
        if call.query_LD is not None:
            check_vectors(call.query_LD, self.codec.dim, self.limits)
        if call.filter is not None:
            check_filter_size(call.filter, self.limits)
            check_filter(call.filter, self.fields)
        with clock.stage("encode"):
            query_LD, waited_s = await self._encoded(call, clock)
        clock.ms["encode"] -= waited_s * 1e3
        clock.ms["queue"] = clock.ms.get("queue", 0.0) + waited_s * 1e3
        prepared = await self._prepared(call, query_LD, params, clock)
        with clock.stage("fan_out"):
            query = self._shard_query(prepared, params, call)
            until = clock.share(SEARCH_SHARE) if call.allow_partial else deadline
            replies = await self.fan_out.search(query, until, partial=call.allow_partial)
        collector = Collector(self.fan_out, call, prepared.query_LD, clock)
        found = await collector.collect(replies, params.k)
        with clock.stage("explain"):
            hits = await self._hits(call, prepared, found, clock)
        clock.ms["total"] = (time.monotonic() - clock.started) * 1e3
        answered = {
            index: reply
            for index, reply in enumerate(replies)
            if isinstance(reply, Reply) and index not in found.missing
        }
        answer = SearchAnswer(
            hits=hits,
            params=params,
            coverage=self.fan_out.coverage([found.missing[i] for i in sorted(found.missing)]),
            generation=self.generation,
            timings_ms=clock.ms,
            shard_timings=self._shard_timings(answered),
        )
        return Found(answer, tuple(passage.metadata_json for passage in found.passages))

    async def _encoded(self, call: SearchCall, clock: Clock) -> tuple[F32, float]:
        """The query's vectors, float32 [L, D], and the seconds that it waited for them."""
        if call.query_LD is not None:
            return call.query_LD, 0.0
        assert call.text is not None
        clock.left_s("the query was encoded")
        return await self.encoding.encode(self.encoder, call.text, clock.deadline, call.language)

    async def _prepared(
        self, call: SearchCall, query_LD: F32, params: SearchParams, clock: Clock
    ) -> Prepared:
        """Rotate, probe; in a thread, where that takes long."""
        matched = call.text is not None and call.explain  # a tokenizer may have to be loaded
        work = query_LD.size * (0 if params.exact else self.codec.centroid_count)
        if work <= PROBED_AT_ONCE and not matched:
            return self._prepare(call, query_LD, params, clock)
        submitted = time.monotonic()

        def when_its_turn_came() -> Prepared:
            clock.add("queue", submitted)
            return self._prepare(call, query_LD, params, clock)

        return await self._in_thread(clock, "the centroids were probed", when_its_turn_came)

    def _prepare(
        self, call: SearchCall, query_LD: F32, params: SearchParams, clock: Clock
    ) -> Prepared:
        tokens: tuple[str, ...] = ()
        if call.text is not None and call.explain:
            tokens = tuple(self.encoder.get().query_tokens(call.text))
        with clock.stage("probe"):
            clock.left_s("the centroids were probed")  # it may have waited for a thread
            if call.query_LD is None:  # given ones were checked before anything was done
                query_LD = check_vectors(query_LD, self.codec.dim, self.limits)
            query_LD = self.codec.rotate(query_LD)
            probes = None
            if not params.exact:
                check_probes(len(query_LD), params.nprobe, self.codec.centroid_count)
                probes = self.codec.centroid_table.probe(query_LD, params.nprobe)
        return Prepared(query_LD, probes, tokens)

    def _shard_query(
        self, prepared: Prepared, params: SearchParams, call: SearchCall
    ) -> ShardQuery:
        ids_LP, scores_LP = prepared.probes or (None, None)
        return ShardQuery(
            self.generation,
            prepared.query_LD,
            ids_LP,
            scores_LP,
            params.k,
            params.candidates,
            params.scored,
            params.exact,
            params.margin,
            params.missed,
            params.spread,
            call.filter,
            sent_along(call, params.k, len(self.fan_out.routes)),
        )

    async def _hits(
        self, call: SearchCall, prepared: Prepared, found: Collected, clock: Clock
    ) -> tuple[Hit, ...]:
        passages = found.passages
        matches: list[tuple[TokenMatch, ...]] = [()] * len(passages)
        if call.explain:
            spans_of = self.encoder if self.encoder.available and not self.pooled else None
            matches = await self._in_thread(
                clock,
                "the hits were explained",
                lambda: [token_matches(one, prepared.tokens, spans_of) for one in passages],
            )
        return tuple(
            Hit(
                id=passage.id,
                score=score,
                text=passage.text if call.with_text else None,
                matches=matched,
                window=passage.window,
            )
            for (_, _, score), passage, matched in zip(
                found.located, passages, matches, strict=True
            )
        )

    async def _in_thread(self, clock: Clock, doing: str, work: Callable[[], T]) -> T:
        """Run blocking work in the pool; DeadlineExceeded when the time is over before it ends."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(clock.left_s(doing)):
                return await loop.run_in_executor(self.executor, copy_context().run, work)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the deadline passed before {doing}: give the query more time, or ask for less"
            ) from None

    def _shard_timings(self, answered: Mapping[int, Reply[ShardAnswer]]) -> tuple[ShardTiming, ...]:
        return tuple(
            ShardTiming(
                self.fan_out.routes[index].shard_id,
                reply.elapsed_ms,
                reply.value.search_ms,
                reply.attempts,
                reply.value.top.touched,
                reply.value.top.scored,
            )
            for index, reply in answered.items()
        )
