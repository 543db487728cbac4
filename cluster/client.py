"""Searching a Tartan gateway from Python.

    with Client("localhost:50051") as client:
        answer = client.search("merge two sorted iterables lazily", k=5)
        for hit in answer.hits:
            print(hit.score, hit.id, hit.text)

`AsyncClient` is the same with `async with` and `await`. Both raise the errors of
colbert_core/errors.py, as the gateway raised them; calls that may be retried are, within the
caller's time. Neither imports ray, torch or transformers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any, Self, Unpack

import grpc

from cluster.client_calls import BatchProgress, Query, SearchOptions, batches, make_request
from cluster.client_retry import Attempts, RetryPolicy
from cluster.client_targets import Rotation, open_aio_channel, open_channel, targets_of
from cluster.security.client import Access, channel_credentials, checked_key
from cluster.security.tls import Tls
from cluster.wire.info import info_from_proto
from cluster.wire.public import answer_from_proto
from cluster.wire.status import from_status
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from cluster.wire.token import bearer
from cluster.wire.types import DEFAULT_K, Coverage, IndexInfo, MissingShard, SearchAnswer
from colbert_core.errors import InvalidInput, TartanError

__all__ = [
    "AsyncClient",
    "Client",
    "Coverage",
    "IndexInfo",
    "MissingShard",
    "Query",
    "RetryPolicy",
    "SearchAnswer",
    "SearchOptions",
    "Tls",
]


class ClientSettings:
    """What both clients are made with."""

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        api_key: str | None = None,
        tls: bool | Tls = False,
        insecure: bool = False,
    ) -> None:
        """Connects at the first call.

        Args:
            target: HOST:PORT of a gateway, or any gRPC target; or several of them, as a list or
                with commas in between: where one is away, another is asked within the same time.
            timeout_s: time for one call, retries included, where the call itself sets none.
            retry: when to ask again.
            api_key: sent with every call; over TLS, or to this machine.
            tls: True to trust the certificates that gRPC brings along, or
                `Tls(ca=…, cert=…, key=…)` with PEM files of your own.
            insecure: send the key in clear text to another machine.

        Raises:
            InvalidInput: the target is empty, the time not above 0, a file of `tls` not usable, or
                the key would travel in clear text.
        """
        self.targets = targets_of(target)
        self._timeout_s = _checked_timeout(timeout_s)
        self._retry = retry or RetryPolicy()
        key = checked_key(api_key)
        self._metadata = bearer(key)
        self._credentials = [channel_credentials(one, key, tls, insecure) for one in self.targets]
        self._rotation = Rotation(self.targets)

    def _attempts(self, timeout_s: float | None) -> Attempts:
        given = self._timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        return Attempts(self._retry, given)

    def _error(self, error: Any, place: int = 0) -> TartanError:
        server = f"gateway {self.targets[place]}"
        return from_status(error.code(), error.details(), error.trailing_metadata(), server)

    def _pause_s(self, attempts: Attempts, error: TartanError, place: int) -> float:
        return self._rotation.pause_after(attempts, error, place)


class Client(ClientSettings):
    """A blocking client; safe to share between threads. A context manager."""

    def __init__(
        self,
        target: str | Sequence[str],
        *,
        timeout_s: float = 10.0,
        retry: RetryPolicy | None = None,
        **access: Unpack[Access],
    ) -> None:
        super().__init__(target, timeout_s=timeout_s, retry=retry, **access)
        self._channels = [
            open_channel(one, credentials)
            for one, credentials in zip(self.targets, self._credentials, strict=True)
        ]
        self._stubs = [search_pb2_grpc.SearchServiceStub(channel) for channel in self._channels]

    def search(
        self,
        query: Query,
        k: int = DEFAULT_K,
        recall: float | None = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> SearchAnswer:
        """The best k passages for a text or a matrix of token vectors [tokens, dimensions].

        Args:
            query: text needs an index that was built with a model.
            k: hits, 1 to 10,000.
            recall: share of the exact top k to find, in (0, 1]; the index's default if None.
            timeout_s: time for the call, retries included.
            options: see SearchOptions.

        Raises:
            QueryError: a value is not possible.
            ModelError: a text query to an index that has no model.
            Unavailable, Overloaded: the gateway or a shard did not answer, after all retries.
            DeadlineExceeded: the time is over.
        """
        request = make_request(query, k, recall, options)
        attempts = self._attempts(timeout_s)
        while True:
            place = self._rotation.place
            try:
                answer = self._stubs[place].Search(
                    request, timeout=attempts.left_s(), metadata=self._metadata
                )
                return answer_from_proto(answer)
            except grpc.RpcError as error:
                time.sleep(self._pause_s(attempts, self._error(error, place), place))

    def search_batch(
        self,
        queries: Iterable[Query],
        k: int = DEFAULT_K,
        recall: float | None = None,
        *,
        timeout_s: float | None = None,
        **options: Unpack[SearchOptions],
    ) -> Iterator[SearchAnswer]:
        """Answers for many queries, in their order; the iterable is read as it is needed.

        Queries travel in batches, and `timeout_s` is the time for each batch. The error of a query
        names its position, counted from 0. Arguments and errors are otherwise those of `search`.
        """
        first = 0
        for requests in batches(make_request(query, k, recall, options) for query in queries):
            progress = BatchProgress(requests, first)
            attempts = self._attempts(timeout_s)
            while True:
                place = self._rotation.place
                self._ask(progress, attempts.left_s(), place)
                if (remaining := progress.remaining_error()) is None:
                    break
                time.sleep(self._pause_s(attempts, remaining, place))
            yield from progress.answers()
            first += len(requests)

    def info(self, *, timeout_s: float | None = None) -> IndexInfo:
        """What the gateway serves, and the limits that it holds requests to."""
        attempts = self._attempts(timeout_s)
        request = search_pb2.GetIndexInfoRequest()
        while True:
            place = self._rotation.place
            try:
                answer = self._stubs[place].GetIndexInfo(
                    request, timeout=attempts.left_s(), metadata=self._metadata
                )
                return info_from_proto(answer)
            except grpc.RpcError as error:
                time.sleep(self._pause_s(attempts, self._error(error, place), place))

    def close(self) -> None:
        """End the connections."""
        for channel in self._channels:
            channel.close()

    def _ask(self, progress: BatchProgress, timeout_s: float, place: int) -> None:
        stream = self._stubs[place].SearchBatch(
            progress.next_request(), timeout=timeout_s, metadata=self._metadata
        )
        try:
            for response in stream:
                progress.take(response)
        except grpc.RpcError as error:
            progress.fail(self._error(error, place))
        finally:
            stream.cancel()  # type: ignore[no-untyped-call]  # an error of one query ended it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def _checked_timeout(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise InvalidInput(f"timeout_s is {timeout_s}: give more than 0 seconds")
    return timeout_s
