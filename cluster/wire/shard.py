"""Conversions of the gateway–shard API, `tartan.shard.v1`, in both directions."""

from __future__ import annotations

import numpy as np

from cluster.wire.filters import filter_from_proto, filter_to_proto
from cluster.wire.public import window_from_proto, window_to_proto
from cluster.wire.tartan.shard.v1 import shard_pb2 as pb
from cluster.wire.tensors import (
    count_of,
    f32_from_bytes,
    f32_to_bytes,
    i32_from_bytes,
    i32_to_bytes,
    i64_from_bytes,
    i64_to_bytes,
)
from cluster.wire.types import (
    Along,
    FetchQuery,
    ShardAnswer,
    ShardIdentity,
    ShardQuery,
    StoredPassage,
)
from colbert_core.errors import QueryError
from colbert_core.types import ShardTopK


def query_to_proto(query: ShardQuery, shard_id: str) -> pb.SearchRequest:
    """A shard query as a message to one shard."""
    tokens, dim = query.query_LD.shape
    ids_LP, scores_LP = query.probe_ids_LP, query.probe_scores_LP
    return pb.SearchRequest(
        generation=query.generation,
        shard_id=shard_id,
        query_tokens=tokens,
        dim=dim,
        nprobe=0 if ids_LP is None else ids_LP.shape[1],
        query=f32_to_bytes(query.query_LD),
        probe_ids=b"" if ids_LP is None else i32_to_bytes(ids_LP),
        probe_scores=b"" if scores_LP is None else f32_to_bytes(scores_LP),
        k=query.k,
        candidates=query.candidates,
        scored=query.scored,
        exact=query.exact,
        margin=query.margin,
        missed=query.missed,
        spread=query.spread,
        filter=None if query.filter is None else filter_to_proto(query.filter),
        along=None if query.along is None else _along_to_proto(query.along),
    )


def _along_to_proto(along: Along) -> pb.Along:
    return pb.Along(
        passages=along.passages, with_text=along.with_text, with_metadata=along.with_metadata
    )


def query_from_proto(message: pb.SearchRequest) -> ShardQuery:
    """A message as a shard query; raises QueryError if a length does not fit the stated sizes, or
    the filter is none."""
    tokens, probes = message.query_tokens, message.nprobe
    probed = not message.exact
    return ShardQuery(
        generation=message.generation,
        query_LD=f32_from_bytes(message.query, (tokens, message.dim), "query"),
        probe_ids_LP=(
            i32_from_bytes(message.probe_ids, (tokens, probes), "probe_ids") if probed else None
        ),
        probe_scores_LP=(
            f32_from_bytes(message.probe_scores, (tokens, probes), "probe_scores")
            if probed
            else None
        ),
        k=message.k,
        candidates=message.candidates,
        scored=message.scored,
        exact=message.exact,
        margin=message.margin if message.HasField("margin") else None,
        missed=message.missed if message.HasField("missed") else None,
        spread=message.spread,
        filter=filter_from_proto(message.filter) if message.HasField("filter") else None,
        along=_along_from_proto(message.along) if message.HasField("along") else None,
    )


def _along_from_proto(message: pb.Along) -> Along:
    return Along(message.passages, message.with_text, message.with_metadata)


def answer_to_proto(answer: ShardAnswer) -> pb.SearchResponse:
    """A shard's answer as a message."""
    return pb.SearchResponse(
        pids=i64_to_bytes(answer.top.pids_K),
        scores=f32_to_bytes(answer.top.scores_K),
        touched=answer.top.touched,
        scored=answer.top.scored,
        search_ms=answer.search_ms,
        passages=[passage_to_proto(passage) for passage in answer.passages],
    )


def answer_from_proto(message: pb.SearchResponse) -> ShardAnswer:
    """A message as a shard's answer; raises QueryError if pids and scores differ in number,
    or there are more passages than pids."""
    count = count_of(message.pids, 8)
    if len(message.passages) > count:
        raise QueryError(f"{len(message.passages)} passages were sent along with {count} pids")
    return ShardAnswer(
        top=ShardTopK(
            pids_K=i64_from_bytes(message.pids, (count,), "pids"),
            scores_K=f32_from_bytes(message.scores, (count,), "scores"),
            touched=message.touched,
            scored=message.scored,
        ),
        search_ms=message.search_ms,
        passages=tuple(passage_from_proto(passage) for passage in message.passages),
    )


def fetch_to_proto(query: FetchQuery, shard_id: str) -> pb.FetchRequest:
    """A fetch as a message to one shard."""
    message = pb.FetchRequest(
        generation=query.generation,
        shard_id=shard_id,
        pids=i64_to_bytes(query.pids_M),
        with_text=query.with_text,
        with_metadata=query.with_metadata,
    )
    if query.query_LD is not None:
        message.query_tokens, message.dim = query.query_LD.shape
        message.query = f32_to_bytes(query.query_LD)
    return message


def fetch_from_proto(message: pb.FetchRequest) -> FetchQuery:
    """A message as a fetch; raises QueryError if a length does not fit the stated sizes."""
    query_LD = None
    if message.query_tokens:
        query_LD = f32_from_bytes(message.query, (message.query_tokens, message.dim), "query")
    return FetchQuery(
        generation=message.generation,
        pids_M=i64_from_bytes(message.pids, (count_of(message.pids, 8),), "pids"),
        with_text=message.with_text,
        with_metadata=message.with_metadata,
        query_LD=query_LD,
    )


def passage_to_proto(passage: StoredPassage) -> pb.StoredPassage:
    """A stored passage as a message."""
    tokens_L, scores_L = passage.match_tokens_L, passage.match_scores_L
    return pb.StoredPassage(
        id=passage.id,
        text=passage.text,
        metadata_json=passage.metadata_json,
        match_tokens=b"" if tokens_L is None else i32_to_bytes(tokens_L),
        match_scores=b"" if scores_L is None else f32_to_bytes(scores_L),
        window=window_to_proto(passage.window),
    )


def passage_from_proto(message: pb.StoredPassage) -> StoredPassage:
    """A message as a stored passage; raises QueryError if the matches differ in number."""
    count = count_of(message.match_tokens, np.dtype(np.int32).itemsize)
    matched = count > 0
    return StoredPassage(
        id=message.id,
        text=message.text if message.HasField("text") else None,
        metadata_json=message.metadata_json,
        match_tokens_L=(
            i32_from_bytes(message.match_tokens, (count,), "match_tokens") if matched else None
        ),
        match_scores_L=(
            f32_from_bytes(message.match_scores, (count,), "match_scores") if matched else None
        ),
        window=window_from_proto(message),
    )


def identity_to_proto(identity: ShardIdentity) -> pb.GetShardInfoResponse:
    """What a shard server holds, as a message."""
    return pb.GetShardInfoResponse(
        generation=identity.generation,
        shard_id=identity.shard_id,
        passages=identity.passages,
        tokens=identity.tokens,
        dim=identity.dim,
        kernels=identity.kernels,
    )


def identity_from_proto(message: pb.GetShardInfoResponse) -> ShardIdentity:
    """A message as what a shard server holds."""
    return ShardIdentity(
        message.generation,
        message.shard_id,
        message.passages,
        message.tokens,
        message.dim,
        message.kernels,
    )
