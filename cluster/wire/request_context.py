"""What a request takes along from server to server: its id, and the trace that it belongs to.

    client ─ x-request-id, traceparent ─▶ gateway ─ the same ─▶ every shard it asks
           ◀─ x-request-id, trailing ─────

An id that a client sends is kept if it is a short word, and made otherwise: a wrong one is no
reason to refuse a query. Both lie in context variables: gRPC runs each call in a context of its
own, and tasks inherit it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

REQUEST_ID_KEY = "x-request-id"
TRACE_KEYS = ("traceparent", "tracestate")  # W3C Trace Context

Metadata = tuple[tuple[str, str], ...]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,63}")
_TRACE = re.compile(r"[ -~]{1,512}")  # the standard asks everybody to pass on so much

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_trace: ContextVar[Metadata] = ContextVar("trace", default=())
_caller: ContextVar[str] = ContextVar("caller", default="")
_query_text: ContextVar[str] = ContextVar("query_text", default="")


def begin_request(metadata: Iterable[Any] | None) -> str:
    """Take over what the metadata of a call brings; gives its id, the caller's or a new one."""
    given = dict(metadata or ())
    sent = given.get(REQUEST_ID_KEY)
    kept = isinstance(sent, str) and _ID.fullmatch(sent)
    identity = str(sent) if kept else f"{random.getrandbits(64):016x}"
    _request_id.set(identity)
    _trace.set(
        tuple(
            (key, value)
            for key in TRACE_KEYS
            if isinstance(value := given.get(key), str) and _TRACE.fullmatch(value)
        )
    )
    return identity


def begin_part(index: int) -> None:
    """Go on as one part of the request: `ID.INDEX`, in a task of its own."""
    _request_id.set(f"{_request_id.get()[:56]}.{index}")


def request_id() -> str:
    """The id of the request that is worked on here; "" outside of one."""
    return _request_id.get()


def trace() -> Metadata:
    """`traceparent` and `tracestate` of the request, as metadata; empty where there are none."""
    return _trace.get()


def set_trace(metadata: Metadata) -> None:
    """Make calls from this context children of another span."""
    _trace.set(metadata)


def caller() -> str:
    """Under which name the caller's API key stands; "" without keys."""
    return _caller.get()


def set_caller(name: str) -> None:
    """Note who asks, for logs."""
    _caller.set(name)


def query_text() -> str:
    """The text of the query, where it was noted to be logged; else ""."""
    return _query_text.get()


def note_query_text(text: str) -> None:
    """Keep the text of the query for the query log; only where the operator asked for it."""
    _query_text.set(text)


def passed_on() -> Metadata:
    """Metadata for the calls that this request makes."""
    identity = _request_id.get()
    return ((REQUEST_ID_KEY, identity), *_trace.get()) if identity else ()
