"""The handlers of the search service: convert, pin a generation, search, convert, tell."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack

import grpc

from cluster.gateway_admission import Admission
from cluster.gateway_cache import ByteLru, SingleFlight, answer_key
from cluster.gateway_clock import Clock
from cluster.gateway_config import GatewayConfig
from cluster.gateway_follow import TableFollower
from cluster.gateway_gate import Gate
from cluster.gateway_generation import OpenGeneration
from cluster.gateway_limits import check_batch
from cluster.observer import Observer, QueryFinished
from cluster.wire import public as convert
from cluster.wire.handlers import (
    AsyncContext,
    abort_async,
    answering_async,
    begin_async,
    deadline_after,
    problem_of,
)
from cluster.wire.info import info_to_proto
from cluster.wire.request_context import begin_part, caller, note_query_text
from cluster.wire.requests import checked
from cluster.wire.status import code_from_number, to_problem
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from cluster.wire.types import Coverage, Limits, SearchAnswer
from colbert_core.errors import Overloaded, TartanError

QUEUE_WINDOW_S = 5.0


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """The handlers."""

    def __init__(
        self,
        follower: TableFollower,
        config: GatewayConfig,
        limits: Limits,
        observer: Observer,
    ) -> None:
        self._follower = follower
        self._config = config
        self._limits = limits
        self._observer = observer
        self._admission = Admission(config, observer)
        self._gate = Gate(config.work_at_once, observer)
        self._answers: ByteLru[bytes, bytes] = ByteLru(config.answer_cache_bytes)
        self._flights: SingleFlight[bytes, bytes] = SingleFlight()
        self.queries = 0
        self._waited: deque[tuple[float, float]] = deque(maxlen=4096)

    @property
    def queue_delay_ms(self) -> float:
        """What queries of the last seconds waited before work on them began, on average."""
        since = time.monotonic() - QUEUE_WINDOW_S
        recent = [waited_ms for at, waited_ms in self._waited if at >= since]
        return sum(recent) / len(recent) if recent else 0.0

    @property
    def answer_cache_bytes(self) -> int:
        """What the cached answers take."""
        return self._answers.bytes

    def check_in_time(self, context: AsyncContext) -> None:
        """Raise Overloaded for a search that would wait in vain, before its request is read; where
        answers are kept, the request must be read to know."""
        if self._answers.enabled:
            return
        began = time.monotonic()
        try:
            self._gate.check(self._deadline(context))
        except Overloaded as error:
            self.queries += 1
            self._observer.query_finished(
                QueryFinished(
                    client=client_of(context),
                    generation="",
                    started=began,
                    total_ms=0.0,
                    stages_ms={},
                    status=grpc.StatusCode.RESOURCE_EXHAUSTED.name,
                    error=str(error),
                )
            )
            raise

    @answering_async
    async def Search(  # noqa: N802
        self, request: search_pb2.SearchRequest, context: AsyncContext
    ) -> search_pb2.SearchResponse:
        client = client_of(context)
        with self._admission.admitted(client, request.ByteSize()):
            return await self._answer(request, self._deadline(context), client)

    async def SearchBatch(  # noqa: N802
        self, request: search_pb2.SearchBatchRequest, context: AsyncContext
    ) -> AsyncIterator[search_pb2.SearchBatchResponse]:
        begin_async(context)
        client = client_of(context)
        with ExitStack() as held:
            try:
                queries = len(checked(request).requests)
                check_batch(queries, self._limits)
                permit = self._admission.admitted(client, request.ByteSize(), queries)
                held.enter_context(permit)
            except TartanError as error:
                await abort_async(context, error)
            async for response in self._batch(request, self._deadline(context), client):
                yield response

    async def _batch(
        self, request: search_pb2.SearchBatchRequest, deadline: float, client: str
    ) -> AsyncIterator[search_pb2.SearchBatchResponse]:
        """The answers of a batch as they become ready."""
        permits = asyncio.Semaphore(self._config.batch_parallel)

        async def one(index: int) -> search_pb2.SearchBatchResponse:
            begin_part(index)
            async with permits:
                return await self._batch_answer(index, request.requests[index], deadline, client)

        tasks = [asyncio.create_task(one(index)) for index in range(len(request.requests))]
        try:
            for ready in asyncio.as_completed(tasks):
                yield await ready
        finally:  # the caller may have gone
            for task in tasks:
                task.cancel()

    @answering_async
    async def GetIndexInfo(  # noqa: N802
        self,
        request: search_pb2.GetIndexInfoRequest,  # noqa: ARG002
        context: AsyncContext,  # noqa: ARG002
    ) -> search_pb2.GetIndexInfoResponse:
        with self._follower.pinned() as generation:
            return info_to_proto(generation.info())

    async def _answer(
        self, request: search_pb2.SearchRequest, deadline: float, client: str
    ) -> search_pb2.SearchResponse:
        note_query_text(request.text)
        clock = Clock(deadline)
        told = _Told(request, client, clock)
        try:
            with self._follower.pinned() as generation:
                told.generation = generation.generation
                return await self._remembered(generation, request, told)
        except asyncio.CancelledError:
            told.status = grpc.StatusCode.CANCELLED.name
            raise
        except Exception as error:
            problem = to_problem(error)
            told.status, told.error = code_from_number(problem.code).name, problem.message
            raise
        finally:
            self.queries += 1
            self._waited.append((time.monotonic(), clock.ms.get("queue", 0.0)))
            self._observer.query_finished(told.event())

    async def _remembered(
        self, generation: OpenGeneration, request: search_pb2.SearchRequest, told: _Told
    ) -> search_pb2.SearchResponse:
        """The answer from the cache, or from another caller who asks the same now; or a new one."""
        if not self._answers.enabled:
            return await self._search(generation, request, told)
        key = answer_key(*generation.key, request)
        known = self._answers.get(key)
        self._observer.cache_asked("answer", known is not None)
        if known is None:
            mine: list[search_pb2.SearchResponse] = []

            async def work() -> bytes:
                mine.append(await self._search(generation, request, told))
                return self._remember(key, mine[0])

            known = await self._flights.run(key, told.clock.deadline, work)
            if mine:
                return mine[0]
        told.cached = True
        response = search_pb2.SearchResponse.FromString(known)
        told.coverage = convert.coverage_from_proto(response.coverage)
        if request.timings:
            elapsed_ms = (time.monotonic() - told.clock.started) * 1e3
            response.timings.CopyFrom(search_pb2.Timings(cached=True, total_ms=elapsed_ms))
        return response

    def _remember(self, key: bytes, response: search_pb2.SearchResponse) -> bytes:
        """Keep an answer that misses nothing, without its timings; returns it as bytes."""
        untimed = search_pb2.SearchResponse()
        untimed.CopyFrom(response)
        untimed.ClearField("timings")
        stored = untimed.SerializeToString()
        if response.coverage.shards_ok == response.coverage.shards_asked:
            self._answers.put(key, stored, len(stored))
        return stored

    async def _search(
        self, generation: OpenGeneration, request: search_pb2.SearchRequest, told: _Told
    ) -> search_pb2.SearchResponse:
        call = convert.call_from_proto(request)
        async with self._gate.passed(told.clock):
            found = await generation.pipeline.search(call, told.clock.deadline, told.clock)
        told.answer, told.coverage = found.answer, found.answer.coverage
        return convert.answer_to_proto(found.answer, found.metadata_json, call.timings)

    async def _batch_answer(
        self, index: int, request: search_pb2.SearchRequest, deadline: float, client: str
    ) -> search_pb2.SearchBatchResponse:
        try:
            answer = await self._answer(request, deadline, client)
        except Exception as error:
            problem = problem_of(error)
            return search_pb2.SearchBatchResponse(
                index=index,
                problem=search_pb2.Problem(
                    code=problem.code, message=problem.message, error=problem.error
                ),
            )
        return search_pb2.SearchBatchResponse(index=index, answer=answer)

    def _deadline(self, context: AsyncContext) -> float:
        return deadline_after(context.time_remaining(), self._config.default_timeout_s)


def client_of(context: AsyncContext) -> str:
    """Who asks: the name of the API key, else the peer's address without its port."""
    return caller() or context.peer().rpartition(":")[0]


class _Told:
    """What is known of a query so far, for the observer."""

    def __init__(self, request: search_pb2.SearchRequest, client: str, clock: Clock) -> None:
        self._request = request
        self._client = client
        self.clock = clock
        self.generation = ""
        self.status = grpc.StatusCode.OK.name
        self.error = ""
        self.answer: SearchAnswer | None = None
        self.coverage: Coverage | None = None
        self.cached = False

    def event(self) -> QueryFinished:
        answer, request = self.answer, self._request
        shards = () if answer is None else answer.shard_timings
        return QueryFinished(
            client=self._client,
            generation=self.generation,
            started=self.clock.started,
            total_ms=(time.monotonic() - self.clock.started) * 1e3,
            stages_ms={k: v for k, v in self.clock.ms.items() if k != "total"},
            status=self.status,
            error=self.error,
            coverage=self.coverage,
            cached=self.cached,
            params=None if answer is None else answer.params,
            k=request.k,
            query_tokens=request.vectors.rows,
            text_chars=len(request.text),
            candidates=sum(shard.touched for shard in shards),
            scored=sum(shard.scored for shard in shards),
        )
