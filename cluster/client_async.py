"""The client of client.py for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Self, Unpack

import grpc

from cluster.client_calls import BatchProgress, Query, SearchOptions, batches, make_request
from cluster.client_retry import RetryPolicy
from cluster.client_settings import ClientSettings
from cluster.client_targets import open_aio_channel
from cluster.security.client import Access
from cluster.wire.info import info_from_proto
from cluster.wire.public import answer_from_proto
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from cluster.wire.types import DEFAULT_K, IndexInfo, SearchAnswer


class AsyncClient(ClientSettings):
    """The client for asyncio: one event loop, any number of tasks. An async context manager."""

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        **access: Unpack[Access],
    ) -> None:
        super().__init__(target, timeout_s=timeout_s, retry=retry, **access)
        self._channels: list[grpc.aio.Channel] = []
        self._made_stubs: list[search_pb2_grpc.SearchServiceAsyncStub] = []

    async def search(
        self,
        query: Query,
        k: int = DEFAULT_K,
        recall: float | None = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchAnswer:
        """As `Client.search`."""
        request = make_request(query, k, recall, options)
        attempts = self._attempts(timeout_s)
        while True:
            place = self._rotation.place
            try:
                answer = await self._stubs[place].Search(
                    request, timeout=attempts.left_s(), metadata=self._metadata
                )
                return answer_from_proto(answer)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(self._pause_s(attempts, self._error(error, place), place))

    async def search_batch(
        self,
        queries: Iterable[Query],
        k: int = DEFAULT_K,
        recall: float | None = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[SearchAnswer]:
        """As `Client.search_batch`."""
        first = 0
        for requests in batches(make_request(query, k, recall, options) for query in queries):
            progress = BatchProgress(requests, first)
            attempts = self._attempts(timeout_s)
            while True:
                place = self._rotation.place
                await self._ask(progress, attempts.left_s(), place)
                if (remaining := progress.remaining_error()) is None:
                    break
                await asyncio.sleep(self._pause_s(attempts, remaining, place))
            for answer in progress.answers():
                yield answer
            first += len(requests)

    async def info(self, *, timeout_s: float | None = None) -> IndexInfo:
        """As `Client.info`."""
        attempts = self._attempts(timeout_s)
        request = search_pb2.GetIndexInfoRequest()
        while True:
            place = self._rotation.place
            try:
                answer = await self._stubs[place].GetIndexInfo(
                    request, timeout=attempts.left_s(), metadata=self._metadata
                )
                return info_from_proto(answer)
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(self._pause_s(attempts, self._error(error, place), place))

    async def close(self) -> None:
        """End the connections."""
        for channel in self._channels:
            await channel.close(None)

    async def _ask(self, progress: BatchProgress, timeout_s: float, place: int) -> None:
        stream = self._stubs[place].SearchBatch(
            progress.next_request(), timeout=timeout_s, metadata=self._metadata
        )
        try:
            async for response in stream:
                progress.take(response)
        except grpc.aio.AioRpcError as error:
            progress.fail(self._error(error, place))
        finally:
            stream.cancel()  # an error of one query ended it

    @property
    def _stubs(self) -> list[search_pb2_grpc.SearchServiceAsyncStub]:
        # A grpc.aio channel belongs to the event loop that runs when it is made.
        if not self._made_stubs:
            self._channels = [
                open_aio_channel(one, credentials)
                for one, credentials in zip(self.targets, self._credentials, strict=True)
            ]
            self._made_stubs = [
                search_pb2_grpc.SearchServiceStub(channel) for channel in self._channels
            ]
        return self._made_stubs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
