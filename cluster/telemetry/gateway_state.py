"""What a gateway is at the moment, as gauges: looked at when metrics are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from pathlib import Path

from prometheus_client import Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster.observer import GatewaySnapshot
from cluster.telemetry.metric_table import TABLE

LOOK_TIMEOUT_S = 2.0


class GatewayState(Collector):
    """Asks the gateway on its own event loop, from the thread of whoever collects."""

    def __init__(
        self, look: Callable[[], GatewaySnapshot], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._look = look
        self._loop = loop

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The gauges; none where the gateway has stopped, or its loop is blocked."""
        seen = None
        with suppress(FutureTimeout, RuntimeError):  # RuntimeError: the loop is closed
            seen = asyncio.run_coroutine_threadsafe(self._seen(), self._loop).result(LOOK_TIMEOUT_S)
        if seen is None:
            return
        yield _gauge("tartan_queries_in_flight", {(): seen.in_flight})
        yield _gauge("tartan_queue_seconds_recent", {(): seen.queue_delay_ms / 1e3})
        yield _gauge("tartan_routing_table_version", {(): seen.table_version})
        replicas: dict[tuple[str, ...], float] = {
            (shard, state): count
            for shard, states in seen.replicas.items()
            for state, count in states.items()
        }
        yield _gauge("tartan_shard_replicas", replicas)
        yield _gauge(
            "tartan_cache_bytes", {(name,): size for name, size in seen.cache_bytes.items()}
        )

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Nothing: registering asks for no look."""
        yield from ()

    async def _seen(self) -> GatewaySnapshot:
        return self._look()


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, TABLE[name].help, labels=TABLE[name].labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def show_certificate_end(gauge: Gauge, certificate: Path) -> None:
    """Show when a certificate ends, read again each time: it may be replaced."""
    gauge.set_function(lambda: _ends_at(certificate))


def _ends_at(certificate: Path) -> float:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(
            certificate.read_bytes()
        ).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return float("nan")  # half written, or gone
