"""Who may call what of the gateway: decided before a byte of the request's message is read.

Health is open, so that load balancers need no key. Everything else needs a role; a method that
nobody thought of needs the highest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc

from cluster.security.api_keys import KeyFile, Role
from cluster.wire.handlers import AsyncContext, abort_async
from cluster.wire.request_context import set_caller
from cluster.wire.token import BEARER, bearer_of
from colbert_core.errors import NotAllowed, NotAuthenticated, TartanError

OPEN = "/grpc.health.v1.Health/"
NEEDS_SEARCH = (
    "/tartan.v1.SearchService/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/grpc.reflection.v1.ServerReflection/",
)

Details = grpc.HandlerCallDetails
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


def role_needed(method: str) -> Role | None:
    """The role that a method needs; None where anybody may call it."""
    if method.startswith(OPEN):
        return None
    return Role.SEARCH if method.startswith(NEEDS_SEARCH) else Role.ADMIN


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in stubs only
    """Lets calls through, or ends them with UNAUTHENTICATED or PERMISSION_DENIED."""

    def __init__(self, keys: KeyFile | None, without_keys: Role) -> None:
        """
        Args:
            keys: the keys that are accepted.
            without_keys: where there is no file of keys, what every caller may do.
        """
        self._keys = keys
        self._without_keys = without_keys

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], details: Details
    ) -> Handler:
        try:
            presented = None
            if self._keys is not None:  # gRPC makes the metadata anew for whoever looks at them
                presented = bearer_of(details.invocation_metadata)
            self.check(str(details.method), presented)
        except TartanError as error:
            return _refusing(error)
        return await continuation(details)

    def check(self, method: str, presented: str | None) -> None:
        """Raise NotAuthenticated or NotAllowed where a call may not go on."""
        needed = role_needed(method)
        if needed is None:
            return
        role = self._without_keys if self._keys is None else self._role_of(self._keys, presented)
        if role < needed:
            raise NotAllowed(
                f"{method} needs the role {needed.name.lower()} and the caller has "
                f"{role.name.lower()}: use a key that was made with --role {needed.name.lower()}"
            )

    def _role_of(self, keys: KeyFile, presented: str | None) -> Role:
        if presented is None:
            raise NotAuthenticated(
                f"this gateway asks for an API key: send the metadata `authorization: {BEARER}KEY` "
                "(api_key=… of the Python client, TARTAN_API_KEY for the command line)"
            )
        if (key := keys.owner(presented)) is None:
            raise NotAuthenticated(
                "the API key is not one of this gateway's: check for a typing error, or whether it "
                "was revoked; who runs the gateway makes another with `tartan key new`"
            )
        set_caller(key.name)
        return key.role


def _refusing(error: TartanError) -> Handler:
    """A handler that ends the call. Of two streams, so that no message is waited for or read."""

    async def refuse(_: object, context: AsyncContext) -> NoReturn:
        await abort_async(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)
