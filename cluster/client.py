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

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, Unpack

import grpc

from cluster.client_async import AsyncClient
from cluster.client_calls import BatchProgress, Query, SearchOptions, batches, make_request
from cluster.client_retry import RetryPolicy
from cluster.client_settings import ClientSettings
from cluster.client_targets import open_channel
from cluster.security.client import Access
from cluster.security.tls import Tls
from cluster.wire.info import info_from_proto
from cluster.wire.public import answer_from_proto
from cluster.wire.tartan.v1 import search_pb2, search_pb2_grpc
from cluster.wire.types import DEFAULT_K, Coverage, IndexInfo, MissingShard, SearchAnswer

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
