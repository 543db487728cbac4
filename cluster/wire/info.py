"""Conversions of what is served, and within which limits, `GetIndexInfo`, in both directions."""

from __future__ import annotations

from cluster.wire.tartan.v1 import search_pb2 as pb
from cluster.wire.types import IndexInfo, Limits, ServedShard


def info_to_proto(info: IndexInfo) -> pb.GetIndexInfoResponse:
    """What is served, as a message."""
    limits = info.limits
    return pb.GetIndexInfoResponse(
        generation=info.generation,
        passages=info.passages,
        tokens=info.tokens,
        dim=info.dim,
        centroids=info.centroids,
        codec=info.codec,
        bits=info.bits,
        model=info.model,
        shards=[
            pb.ShardInfo(
                shard_id=shard.shard_id,
                passages=shard.passages,
                tokens=shard.tokens,
                replicas=shard.replicas,
            )
            for shard in info.shards
        ],
        limits=pb.Limits(
            max_k=limits.max_k,
            max_query_tokens=limits.max_query_tokens,
            max_text_chars=limits.max_text_chars,
            max_message_bytes=limits.max_message_bytes,
            max_batch=limits.max_batch,
            max_filter_conditions=limits.max_filter_conditions,
            max_filter_values=limits.max_filter_values,
            max_filter_depth=limits.max_filter_depth,
        ),
        fields=[pb.MetadataField(name=name, type=kind) for name, kind in info.fields.items()],
        server_time=info.server_time,
        version=info.version,
    )


def info_from_proto(message: pb.GetIndexInfoResponse) -> IndexInfo:
    """A message as what is served."""
    limits = message.limits
    return IndexInfo(
        generation=message.generation,
        passages=message.passages,
        tokens=message.tokens,
        dim=message.dim,
        centroids=message.centroids,
        codec=message.codec,
        bits=message.bits,
        model=message.model,
        shards=tuple(
            ServedShard(shard.shard_id, shard.passages, shard.tokens, shard.replicas)
            for shard in message.shards
        ),
        limits=Limits(
            max_k=limits.max_k,
            max_query_tokens=limits.max_query_tokens,
            max_text_chars=limits.max_text_chars,
            max_message_bytes=limits.max_message_bytes,
            max_batch=limits.max_batch,
            max_filter_conditions=limits.max_filter_conditions,
            max_filter_values=limits.max_filter_values,
            max_filter_depth=limits.max_filter_depth,
        ),
        fields={one.name: one.type for one in message.fields},
        server_time=message.server_time,
        version=message.version,
    )
