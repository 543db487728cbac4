"""Bytes that are no request: told so with INVALID_ARGUMENT, like any other value that is wrong.

gRPC itself answers UNKNOWN or INTERNAL where a request cannot be parsed, before a handler sees it.
So services are added to a server through `parsing`: what cannot be parsed reaches the handler as
`Malformed`, and the decorators of handlers.py refuse it (`checked`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError

from colbert_core.errors import QueryError

Request = TypeVar("Request")


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands in the place of a request that could not be parsed."""

    error: QueryError


def checked(request: Request) -> Request:
    """The request, if it is one.

    Raises:
        QueryError: its bytes could not be parsed.
    """
    if isinstance(request, Malformed):
        raise request.error
    return request


def parsing(server: grpc.Server | grpc.aio.Server) -> Any:
    """What to give to `add_…Servicer_to_server` in the server's place."""
    return _Parsing(server)


class _Parsing:
    """Passes the methods of a service on to a server, made to parse without raising."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """Nothing: the same handlers come again, by name, in `add_registered_method_handlers`."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add the methods of a service to the server."""
        added = {name: _never_raising(handler) for name, handler in handlers.items()}
        generic = grpc.method_handlers_generic_handler(service, added)
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_registered_method_handlers(service, added)


def _never_raising(handler: Any) -> Any:
    """The same method of a service, whose parsing never raises."""
    parse: Callable[[bytes], Any] = handler.request_deserializer
    message = parse.__self__.DESCRIPTOR  # type: ignore[attr-defined]  # bound: Message.FromString

    def parse_or_say(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            return Malformed(
                QueryError(
                    f"the {len(data)} bytes of the request are not a {message.full_name} "
                    f"({error}): make it with stubs generated from {message.file.name} (or ask "
                    "the server's reflection), and send every text as valid UTF-8"
                )
            )

    if handler.request_streaming:  # and answers to each
        return grpc.stream_stream_rpc_method_handler(
            handler.stream_stream, parse_or_say, handler.response_serializer
        )
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(
            handler.unary_stream, parse_or_say, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        handler.unary_unary, parse_or_say, handler.response_serializer
    )
