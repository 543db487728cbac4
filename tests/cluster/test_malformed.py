"""Bytes that are no request: refused as what they are, with what to do, by both services."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from local_cluster import LocalCluster

from cluster.wire.status import ERROR_KEY

NOT_UTF8 = b"\x0a\x02\xff\xfe"  # field 1, two bytes
CUT_OFF = b"\x0a\x20short"  # field 1, said to be 32 bytes
NO_FIELD = b"\xff\xff\xff"
PUBLIC = "tartan.v1.SearchService"
SHARD = "tartan.shard.v1.ShardService"


@pytest.fixture(scope="module")
def channels(serving: LocalCluster) -> Iterator[dict[str, grpc.Channel]]:
    gateway = grpc.insecure_channel(serving.address)
    shard = grpc.insecure_channel(serving.servers[0][0].address)
    with gateway, shard:
        yield {PUBLIC: gateway, SHARD: shard}


@pytest.mark.parametrize(
    ("service", "method", "data"),
    [
        (PUBLIC, "Search", NOT_UTF8),
        (PUBLIC, "Search", CUT_OFF),
        (PUBLIC, "SearchBatch", b"\x0a\x04" + NOT_UTF8),  # one request
        (PUBLIC, "SearchBatch", CUT_OFF),
        (PUBLIC, "GetIndexInfo", NO_FIELD),
        (SHARD, "Search", NOT_UTF8),
        (SHARD, "Search", CUT_OFF),
        (SHARD, "Fetch", CUT_OFF),
        (SHARD, "GetShardInfo", NO_FIELD),
    ],
)
def test_bytes_that_are_no_request_are_an_invalid_argument(
    channels: dict[str, grpc.Channel], service: str, method: str, data: bytes
) -> None:
    package = service.rsplit(".", 1)[0]
    call = channels[service].unary_stream(f"/{service}/{method}")  # answers one as well as many
    with pytest.raises(grpc.RpcError) as caught:
        list(call(data, timeout=30.0))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    details = caught.value.details()
    assert f"the {len(data)} bytes of the request are not a {package}.{method}Request" in details
    assert ".proto" in details
    assert "UTF-8" in details
    assert (ERROR_KEY, "QueryError") in caught.value.trailing_metadata()
