"""The telemetry of one server process: what is asked for, and what runs for it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

from cluster.observer import GatewaySnapshot, QueryFinished, ShardCallFinished
from cluster.telemetry.call_spans import ShardSpans
from cluster.telemetry.endpoint import MetricsAddress, MetricsEndpoint
from cluster.telemetry.gateway_metrics import GatewayMetrics
from cluster.telemetry.gateway_state import GatewayState, show_certificate_end
from cluster.telemetry.logs import check_format, configure_logging
from cluster.telemetry.query_log import DEFAULT_SLOW_MS, QueryLog
from cluster.telemetry.ray_bridge import RayBridge
from cluster.telemetry.registry import Registry
from cluster.telemetry.shard_metrics import ShardMetrics
from cluster.telemetry.spans import start_tracing, stop_tracing, tracing
from cluster.wire.types import ShardIdentity
from colbert_core.errors import AddressInUse, InvalidInput

log = logging.getLogger(__name__)


def otel_environment() -> dict[str, str]:
    """What of this process's environment is for traces: servers on other machines get it, too."""
    return {name: value for name, value in os.environ.items() if name.startswith("OTEL_")}


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What a server tells about itself.

    Attributes:
        metrics: where `/metrics` is; None for nowhere. Ray shows them in any case.
        log_format: "text" or "json".
        slow_query_ms: queries that take longer are logged.
        log_queries: log every query, with its text.
        environment: OTEL_* variables; headers in it may be secret.
    """

    metrics: MetricsAddress | None = None
    log_format: str = "text"
    slow_query_ms: float = DEFAULT_SLOW_MS
    log_queries: bool = False
    environment: Mapping[str, str] = field(default_factory=otel_environment, repr=False)

    def check(self) -> None:
        """Raise InvalidInput where a value is not possible."""
        check_format(self.log_format)
        if not self.slow_query_ms >= 0:
            raise InvalidInput(f"slow_query_ms is {self.slow_query_ms}; give 0 or more")
        if self.metrics is not None:
            self.metrics.check()


class Telemetry:
    """What runs in one process; `stop` ends it."""

    def __init__(self, config: TelemetryConfig, service: str) -> None:
        """Begin logs, traces, and the endpoint.

        Args:
            service: the name in traces.

        Raises:
            AddressInUse: metrics cannot be shown there.
            InvalidInput: traces are asked for and cannot be exported.
        """
        configure_logging(config.log_format)
        os.environ.update(config.environment)
        self.registry = Registry()
        collectors = self.registry.collectors
        self.endpoint = (
            None if config.metrics is None else MetricsEndpoint(config.metrics, collectors)
        )
        start_tracing(service)
        self._bridge: RayBridge | None = None

    def tell_ray(self) -> None:
        """Hand the metrics to Ray from now on, where this process is one of Ray's."""
        if self._bridge is None and _in_ray():
            self._bridge = RayBridge(self.registry.collectors)

    def stop(self) -> None:
        """End what was started, and hand over the last spans."""
        if self._bridge is not None:
            self._bridge.stop()
        if self.endpoint is not None:
            self.endpoint.stop()
        stop_tracing()


class GatewayTelemetry(GatewayMetrics):
    """A gateway's events as metrics and as lines of the query log; `stop` ends all of it.

    Make it before the gateway, which looks whether traces are on, and `watch` the gateway then.
    """

    def __init__(self, config: TelemetryConfig) -> None:
        """Errors as `Telemetry` raises them."""
        self._running = Telemetry(config, "tartan-gateway")
        super().__init__(self._running.registry)
        self._log = QueryLog(config.slow_query_ms, every=config.log_queries)
        self._state: GatewayState | None = None

    def watch(self, look: Callable[[], GatewaySnapshot], certificate: Path | None = None) -> None:
        """Show what the gateway is at the moment, too, and tell Ray. Call on its event loop.

        Args:
            certificate: that it shows, if any.
        """
        registry = self._running.registry
        if self._state is not None:  # of a gateway that could not start
            registry.collectors.unregister(self._state)
        self._state = GatewayState(look, asyncio.get_running_loop())
        registry.collectors.register(self._state)
        self._running.tell_ray()
        if certificate is not None:
            ends = registry.gauge("tartan_certificate_not_after_seconds")
            show_certificate_end(ends, certificate)

    @property
    def metrics_address(self) -> str:
        """Where `/metrics` is; "" for nowhere."""
        endpoint = self._running.endpoint
        return "" if endpoint is None else endpoint.address

    def query_finished(self, event: QueryFinished) -> None:
        """Count it, and log it if it was slow."""
        super().query_finished(event)
        self._log.query_finished(event)

    def shard_call_finished(self, event: ShardCallFinished) -> None:
        """Count it, and remember it for the line of its query."""
        super().shard_call_finished(event)
        self._log.shard_call_finished(event)

    def stop(self) -> None:
        """End what was started, and hand over the last spans."""
        self._running.stop()


@dataclass(frozen=True, slots=True)
class ShardTelemetry:
    """What a shard server starts in its own process; all that it knows of telemetry."""

    config: TelemetryConfig

    def start(
        self, shard: ShardIdentity, mapped_bytes: int, copied_bytes: Callable[[], int]
    ) -> Sequence[grpc.ServerInterceptor]:  # type: ignore[type-arg]  # generic in stubs only
        """Begin to tell; what the gRPC server must be made with."""
        running = _running_at(self.config, shard.shard_id)
        running.tell_ray()
        counting = ShardMetrics(running.registry, shard, mapped_bytes, copied_bytes)
        return [counting, ShardSpans(shard.shard_id)] if tracing() else [counting]


def _running_at(config: TelemetryConfig, shard_id: str) -> Telemetry:
    """A shard server's telemetry, `/metrics` on any free port. Where that cannot be shown (no
    certificate on this node), a shard is served all the same."""
    if config.metrics is None:
        return Telemetry(config, "tartan-shard")
    try:
        running = Telemetry(
            replace(config, metrics=replace(config.metrics, port=0)), "tartan-shard"
        )
    except (AddressInUse, OSError) as error:
        running = Telemetry(replace(config, metrics=None), "tartan-shard")
        log.error("metrics of shard %s are not shown here: %s", shard_id, error)
    else:
        assert running.endpoint is not None
        log.info("metrics of shard %s are at %s", shard_id, running.endpoint.address)
    return running


def _in_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
