"""What both clients share: queries as calls, and batches whose failed parts are asked again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from cluster.wire.public import answer_from_proto, call_to_proto
from cluster.wire.status import RETRYABLE, from_problem
from cluster.wire.tartan.v1 import search_pb2
from cluster.wire.types import Problem, SearchAnswer, SearchCall
from colbert_core.errors import QueryError, TartanError
from colbert_core.filters import FilterLike, as_filter

Query = str | npt.ArrayLike
"""A text, or a matrix of token vectors [query tokens, dimensions]."""

BATCH_QUERIES = 64
BATCH_BYTES = 8 * 2**20  # half of a gateway's default limit


class SearchOptions(TypedDict, total=False):
    """What `search` and `search_batch` take beside the query, `k` and `recall`.

    Keys:
        nprobe, candidates, scored: raw parameters, instead of `recall`.
        exact: score every passage.
        with_text, with_metadata: whether hits carry them; both by default.
        explain: for each query token, the passage token that it matched.
        timings: where the time went.
        filter: which passages may be found: a string, such as `year >= 2019 and lang = "de"`, the
            same as an expression (`colbert_core.filters`), or a collection of ids; None for all.
        allow_partial: where shards do not answer, give what the others found, with what is missing
            in `coverage`, instead of raising.
        language: of the text, where it is not the index's and the model has an adapter for each.
    """

    nprobe: int | None
    candidates: int | None
    scored: int | None
    exact: bool
    with_text: bool
    with_metadata: bool
    explain: bool
    timings: bool
    filter: FilterLike | None
    allow_partial: bool
    language: str | None


def make_request(
    query: Query, k: int, recall: float | None, options: SearchOptions
) -> search_pb2.SearchRequest:
    """A query as a message.

    Raises:
        QueryError: the query is neither text nor a matrix of numbers, the filter is none, or
            options contradict.
    """
    given: dict[str, Any] = {"k": k, "recall": recall, **options}
    if given.get("filter") is not None:
        given["filter"] = as_filter(given["filter"])
    if isinstance(query, str):
        call = SearchCall(text=query, **given)
    else:
        call = SearchCall(query_LD=_matrix(query), **given)
    try:
        return call_to_proto(call)
    except (ValueError, TypeError) as error:  # protobuf refuses what does not fit a field
        raise QueryError(f"an option has an impossible value: {error}") from error


def _matrix(query: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        query_LD = np.asarray(query, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise QueryError(
            f"the query is neither a text nor an array of numbers ({type(query).__name__}): {error}"
        ) from error
    if query_LD.ndim != 2:
        raise QueryError(
            f"the query has shape {query_LD.shape}: give a text, or one matrix "
            "[query tokens, dimensions]"
        )
    return query_LD


def batches(
    requests: Iterable[search_pb2.SearchRequest],
) -> Iterator[list[search_pb2.SearchRequest]]:
    """Requests in lists of at most BATCH_QUERIES and BATCH_BYTES; a larger one goes alone."""
    batch: list[search_pb2.SearchRequest] = []
    size_bytes = 0
    for request in requests:
        request_bytes = request.ByteSize()
        if batch and (len(batch) == BATCH_QUERIES or size_bytes + request_bytes > BATCH_BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(request)
        size_bytes += request_bytes
    if batch:
        yield batch


class BatchProgress:
    """One batch: what is answered, and what must be asked (again)."""

    def __init__(self, requests: list[search_pb2.SearchRequest], first: int) -> None:
        """`first` is the position of the batch's first query among all, for messages."""
        self._requests = requests
        self._first = first
        self._answers: dict[int, SearchAnswer] = {}
        self._asked: list[int] = []
        self._error: TartanError | None = None

    def next_request(self) -> search_pb2.SearchBatchRequest:
        """Everything that has no answer yet."""
        self._asked = [i for i in range(len(self._requests)) if i not in self._answers]
        self._error = None
        return search_pb2.SearchBatchRequest(requests=[self._requests[i] for i in self._asked])

    def take(self, response: search_pb2.SearchBatchResponse) -> None:
        """Note one response; raises its error if that one may not be retried."""
        index = self._asked[response.index]
        if response.HasField("answer"):
            self._answers[index] = answer_from_proto(response.answer)
            return
        problem = response.problem
        error = from_problem(Problem(problem.code, problem.message, problem.error))
        named = type(error)(f"query {self._first + index}: {error}")
        if not isinstance(error, RETRYABLE):
            raise named
        self._error = named

    def fail(self, error: TartanError) -> None:
        """Note that the whole call failed; what was answered before stays."""
        self._error = error

    def remaining_error(self) -> TartanError | None:
        """Why some queries have no answer yet; None when all have one."""
        if len(self._answers) == len(self._requests):
            return None
        return self._error or TartanError("the gateway ended a batch without answering all of it")

    def answers(self) -> list[SearchAnswer]:
        """All answers, in the order of the queries."""
        return [self._answers[index] for index in range(len(self._requests))]
