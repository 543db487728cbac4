"""Asking the standard health service of a gateway or a shard server, blocking."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cluster.security.client import Access, channel_credentials
from cluster.wire.channels import channel_options, may_use_proxy
from cluster.wire.status import from_status

ALL = ""


def health_of(
    target: str, services: Sequence[str], access: Access, *, timeout_s: float = 5.0
) -> dict[str, str]:
    """The status of each service that the server knows: SERVING, NOT_SERVING, SERVICE_UNKNOWN.

    Raises:
        Unavailable, DeadlineExceeded: the server does not answer.
    """
    options = channel_options(proxy=may_use_proxy(target))
    credentials = channel_credentials(target, None, access.get("tls", False), insecure=True)
    if credentials is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        channel = grpc.secure_channel(target, credentials, options=options)
    found = {}
    with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in services:
            request = health_pb2.HealthCheckRequest(service=service)
            try:
                answer = stub.Check(request, timeout=timeout_s)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise from_status(error.code(), error.details(), None, target) from None
            else:
                found[service] = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return found
