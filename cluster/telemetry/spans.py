"""Traces of queries through gateway and shards, by OpenTelemetry: off unless the environment asks.

    query ─ encode, probe, fan_out ─ each attempt at a shard ─ the shard's search
          └ merge, fetch, …

`OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) turns them on; every other
variable is OpenTelemetry's own: headers, certificates, sampler, attributes. A trace that a caller
began is continued (W3C `traceparent`). Spans say how much and how long, never what was asked.

Where traces are off, `span` gives a context that does nothing, and opentelemetry is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from cluster.wire.request_context import TRACE_KEYS, Metadata
from colbert_core.errors import InvalidInput

Kind = Literal["INTERNAL", "SERVER", "CLIENT"]
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_OFF: AbstractContextManager[Any] = nullcontext()
_provider: Any = None
_tracer: Any = None


def wants_traces(environment: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces."""
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp")
    named = any(environment.get(name) for name in ENDPOINTS)
    return named and not disabled and exporter != "none"


def start_tracing(service: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Begin to export the spans of this process, if the environment asks for it.

    Args:
        service: what the process is called where `OTEL_SERVICE_NAME` gives no other name.

    Returns:
        Whether traces are on.

    Raises:
        InvalidInput: traces are asked for, and cannot be exported that way.
    """
    global _provider, _tracer
    if not wants_traces(environment):
        return False
    protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    if protocol != "grpc":
        raise InvalidInput(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}; traces are exported by grpc alone: give "
            "the collector's gRPC endpoint (4317 by custom), and leave the variable out"
        )
    try:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise InvalidInput(
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, and {error.name} is not installed: "
            "`pip install 'tartan-search[otel]'`, or unset the variable"
        ) from None
    name = environment.get("OTEL_SERVICE_NAME", service)
    _provider = TracerProvider(resource=Resource.create({"service.name": name}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("tartan")
    return True


def stop_tracing() -> None:
    """Hand over what is left, within the exporter's time-out, and export no more."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


def tracing() -> bool:
    """Whether spans are exported."""
    return _tracer is not None


def span(name: str, kind: Kind = "INTERNAL", **attributes: Any) -> AbstractContextManager[Any]:
    """A span around a block, a child of the one that is open here; None where traces are off."""
    return _OFF if _tracer is None else _open(name, kind, None, attributes)


def server_span(
    name: str, metadata: Iterable[Any] | None, **attributes: Any
) -> AbstractContextManager[Any]:
    """A span around the handling of a call, a child of the caller's span if there is one."""
    if _tracer is None:
        return _OFF
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {key: value for key, value in metadata or () if key in TRACE_KEYS}
    return _open(name, "SERVER", TraceContextTextMapPropagator().extract(carrier), attributes)


def outgoing() -> Metadata:
    """The metadata that make a call a child of the span that is open here."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return tuple(carrier.items())


def failed(opened: Any, why: str) -> None:
    """Say of a span that what it stands for failed."""
    from opentelemetry.trace import StatusCode

    opened.set_status(StatusCode.ERROR, why)


@contextmanager
def _open(name: str, kind: Kind, parent: Any, attributes: Mapping[str, Any]) -> Iterator[Any]:
    """A span that an exception ends as an error: of its class alone, for messages may repeat what
    was sent."""
    from opentelemetry import trace

    with _tracer.start_as_current_span(
        name,
        context=parent,
        kind=trace.SpanKind[kind],
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except BaseException as error:
            if opened.is_recording() and opened.status.is_unset:
                opened.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise
