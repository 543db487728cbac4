"""Conversions of a search and its answer, of the public API, `tartan.v1`, in both directions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from cluster.wire.filters import filter_from_proto, filter_to_proto
from cluster.wire.tartan.v1 import search_pb2 as pb
from cluster.wire.tensors import matrix_from_proto, matrix_to_proto
from cluster.wire.types import (
    DEFAULT_K,
    Coverage,
    MissingShard,
    SearchAnswer,
    SearchCall,
    ShardTiming,
)
from colbert_core.errors import QueryError, TartanError
from colbert_core.types import Hit, SearchParams, TokenMatch

STAGES = ("queue", "encode", "probe", "fan_out", "merge", "fetch", "explain", "total")


def call_to_proto(call: SearchCall) -> pb.SearchRequest:
    """A search call as a message.

    Raises:
        QueryError: both or neither of text and vectors, or two ways to say how hard to look.
    """
    if (call.text is None) == (call.query_LD is None):
        raise QueryError("a query is a text or a matrix of vectors: give exactly one of them")
    raw = {"nprobe": call.nprobe, "candidates": call.candidates, "scored": call.scored}
    has_budget = any(value is not None for value in raw.values())
    if (call.recall is not None) + has_budget + call.exact > 1:
        raise QueryError(
            "recall, raw parameters (nprobe, candidates, scored) and exact are three ways to say "
            "how hard to look: give one"
        )
    message = pb.SearchRequest(
        k=call.k,
        with_text=call.with_text,
        with_metadata=call.with_metadata,
        explain=call.explain,
        timings=call.timings,
        allow_partial=call.allow_partial,
        language=call.language or "",
    )
    if call.text is not None:
        message.text = call.text
    elif call.query_LD is not None:
        message.vectors.CopyFrom(matrix_to_proto(call.query_LD))
    if call.recall is not None:
        message.recall = call.recall
    elif call.exact:
        message.exact = True
    elif has_budget:
        message.budget.CopyFrom(pb.SearchBudget(**raw))
    if call.filter is not None:
        message.filter.CopyFrom(filter_to_proto(call.filter))
    return message


def call_from_proto(message: pb.SearchRequest) -> SearchCall:
    """A message as a search call; values are not judged here, only that they can be read.

    Raises:
        QueryError: there is no query, the matrix's bytes do not fit its dimensions, or the filter
            is none.
    """
    query = message.WhichOneof("query")
    if query is None:
        raise QueryError("the request has no query: set `text`, or `vectors` to a matrix")
    budget = message.budget if message.HasField("budget") else pb.SearchBudget()
    return SearchCall(
        text=message.text if query == "text" else None,
        query_LD=matrix_from_proto(message.vectors) if query == "vectors" else None,
        k=message.k if message.HasField("k") else DEFAULT_K,
        recall=message.recall if message.HasField("recall") else None,
        nprobe=budget.nprobe if budget.HasField("nprobe") else None,
        candidates=budget.candidates if budget.HasField("candidates") else None,
        scored=budget.scored if budget.HasField("scored") else None,
        exact=message.exact,
        with_text=message.with_text if message.HasField("with_text") else True,
        with_metadata=message.with_metadata if message.HasField("with_metadata") else True,
        explain=message.explain,
        timings=message.timings,
        filter=filter_from_proto(message.filter) if message.HasField("filter") else None,
        allow_partial=message.allow_partial,
        language=message.language or None,
    )


def answer_to_proto(
    answer: SearchAnswer, metadata_json: Sequence[str], timings: bool = True
) -> pb.SearchResponse:
    """An answer as a message.

    Args:
        timings: whether to send them, where there are any.
        metadata_json: one per hit, as stored: metadata is passed on unparsed, and the hits' own
            `metadata` is not looked at.
    """
    return pb.SearchResponse(
        hits=[
            _hit_to_proto(hit, json_text)
            for hit, json_text in zip(answer.hits, metadata_json, strict=True)
        ],
        params=pb.SearchParams(
            k=answer.params.k,
            nprobe=answer.params.nprobe,
            candidates=answer.params.candidates,
            scored=answer.params.scored,
            exact=answer.params.exact,
            margin=answer.params.margin,
            missed=answer.params.missed,
            spread=answer.params.spread,
        ),
        coverage=pb.Coverage(
            shards_asked=answer.coverage.shards_asked,
            shards_ok=answer.coverage.shards_ok,
            shards_failed=answer.coverage.shards_failed,
            shards_timed_out=answer.coverage.shards_timed_out,
            passages_searched=answer.coverage.passages_searched,
            passages_total=answer.coverage.passages_total,
            missing=[
                pb.MissingShard(
                    shard_id=shard.shard_id,
                    passages=shard.passages,
                    timed_out=shard.timed_out,
                    reason=shard.reason,
                )
                for shard in answer.coverage.missing
            ],
        ),
        generation=answer.generation,
        timings=_timings_to_proto(answer) if timings and answer.timings_ms else None,
    )


def answer_from_proto(message: pb.SearchResponse) -> SearchAnswer:
    """A message as an answer.

    Raises:
        TartanError: the server sent metadata that is not a JSON object.
    """
    params = message.params
    timings = message.timings if message.HasField("timings") else None
    return SearchAnswer(
        hits=tuple(_hit_from_proto(hit) for hit in message.hits),
        params=SearchParams(
            params.k,
            params.nprobe,
            params.candidates,
            params.scored,
            params.exact,
            params.margin if params.HasField("margin") else None,
            params.missed if params.HasField("missed") else None,
            params.spread,
        ),
        coverage=coverage_from_proto(message.coverage),
        generation=message.generation,
        timings_ms=(
            {} if timings is None else {name: getattr(timings, f"{name}_ms") for name in STAGES}
        ),
        shard_timings=() if timings is None else tuple(map(_shard_timing, timings.shards)),
        cached=timings is not None and timings.cached,
    )


def coverage_from_proto(message: pb.Coverage) -> Coverage:
    """A message as how complete an answer is."""
    return Coverage(
        message.shards_asked,
        message.shards_ok,
        message.shards_failed,
        message.shards_timed_out,
        message.passages_searched,
        message.passages_total,
        tuple(
            MissingShard(one.shard_id, one.passages, one.timed_out, one.reason)
            for one in message.missing
        ),
    )


def _hit_to_proto(hit: Hit, metadata_json: str) -> pb.Hit:
    return pb.Hit(
        id=hit.id,
        score=hit.score,
        text=hit.text,
        metadata_json=metadata_json,
        matches=[
            pb.TokenMatch(
                query_token=match.query_token,
                query_index=match.query_index,
                passage_token_index=match.passage_token_index,
                score=match.score,
                start=match.start,
                end=match.end,
            )
            for match in hit.matches
        ],
        window=window_to_proto(hit.window),
    )


def _hit_from_proto(message: pb.Hit) -> Hit:
    return Hit(
        id=message.id,
        score=message.score,
        text=message.text if message.HasField("text") else None,
        metadata=_metadata(message),
        matches=tuple(
            TokenMatch(
                match.query_token,
                match.query_index,
                match.passage_token_index,
                match.score,
                match.start,
                match.end,
            )
            for match in message.matches
        ),
        window=window_from_proto(message),
    )


def window_to_proto(window: tuple[int, int] | None) -> pb.Window | None:
    """The window of a hit, or of a stored passage, as a message."""
    return None if window is None else pb.Window(start=window[0], end=window[1])


def window_from_proto(message: Any) -> tuple[int, int] | None:
    """The window of a `Hit` or a `StoredPassage`."""
    if not message.HasField("window"):
        return None
    return message.window.start, message.window.end


def _metadata(message: pb.Hit) -> dict[str, Any]:
    if not message.metadata_json:
        return {}
    try:
        metadata = json.loads(message.metadata_json)
    except ValueError as error:
        raise TartanError(
            f"the server sent metadata of hit {message.id!r} that is not JSON: {error}"
        ) from error
    if not isinstance(metadata, dict):
        raise TartanError(f"the server sent metadata of hit {message.id!r} that is not an object")
    return metadata


def _timings_to_proto(answer: SearchAnswer) -> pb.Timings:
    return pb.Timings(
        **{f"{name}_ms": answer.timings_ms.get(name, 0.0) for name in STAGES},
        cached=answer.cached,
        shards=[
            pb.ShardTiming(
                shard_id=shard.shard_id,
                elapsed_ms=shard.elapsed_ms,
                search_ms=shard.search_ms,
                attempts=shard.attempts,
                touched=shard.touched,
                scored=shard.scored,
            )
            for shard in answer.shard_timings
        ],
    )


def _shard_timing(message: pb.ShardTiming) -> ShardTiming:
    return ShardTiming(
        message.shard_id,
        message.elapsed_ms,
        message.search_ms,
        message.attempts,
        message.touched,
        message.scored,
    )
