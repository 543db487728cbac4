"""`authorization: Bearer …` in gRPC metadata, and the token between a gateway and its shards.

The token of a `tartan serve` is random, made when it starts, and handed to the shard servers
through Ray. It never stands on a command line, in an environment or in a log.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeAlias

import grpc

from cluster.wire.status import ERROR_KEY, code_of
from colbert_core.errors import NotAuthenticated

KEY = "authorization"
BEARER = "Bearer "
HEALTH_PREFIX = "/grpc.health.v1.Health/"

Metadata = tuple[tuple[str, str], ...]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def bearer(secret: str | None) -> Metadata:
    """The metadata of a call that presents a secret; empty without one."""
    return ((KEY, f"{BEARER}{secret}"),) if secret else ()


def bearer_of(metadata: Iterable[Any] | None) -> str | None:
    """The secret that a call presents, or None."""
    for name, value in metadata or ():
        if name == KEY and isinstance(value, str) and value[: len(BEARER)].lower() == "bearer ":
            return value[len(BEARER) :]
    return None


class TokenGuard(grpc.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """For a sync server: every call but health must present the one token."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        presented = bearer_of(details.invocation_metadata) or ""
        if str(details.method).startswith(HEALTH_PREFIX):
            return continuation(details)
        if hmac.compare_digest(presented.encode(), self._token):
            return continuation(details)
        return grpc.stream_stream_rpc_method_handler(_refuse)


def _refuse(_: object, context: grpc.ServicerContext) -> NoReturn:
    error = NotAuthenticated(
        "this shard server answers its own gateway only, which has the token: ask the gateway"
    )
    context.set_trailing_metadata(((ERROR_KEY, type(error).__name__),))
    context.abort(code_of(error), str(error))
    raise AssertionError("abort() raises")
