"""The metrics of one process, made from the table: what servers count in, and `/metrics` reads."""

from __future__ import annotations

import platform
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cluster.telemetry.metric_table import TABLE, Metric
from cluster.version import own_version
from colbert_core.kernels import IMPLEMENTATION

M = TypeVar("M", Counter, Gauge, Histogram)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter, which nothing reads


class Registry:
    """One process's metrics; safe to share between threads.

    `counter`, `gauge` and `histogram` give what the table names; it is made at the first use, so
    that a gateway does not show what only shard servers have.
    """

    def __init__(self) -> None:
        self.collectors = CollectorRegistry()
        self._lock = threading.Lock()
        self._made: dict[str, Counter | Gauge | Histogram] = {}
        ProcessCollector(registry=self.collectors)
        self.collectors.register(_ProcessMemory())
        info = self.gauge("tartan_build_info")
        info.labels(own_version(), platform.python_version(), IMPLEMENTATION).set(1)

    def counter(self, name: str) -> Counter:
        """The counter of this name."""
        return self._get(name, Counter)

    def gauge(self, name: str) -> Gauge:
        """The gauge of this name."""
        return self._get(name, Gauge)

    def histogram(self, name: str) -> Histogram:
        """The histogram of this name."""
        return self._get(name, Histogram)

    def forget(self, label: str, value: str) -> None:
        """Drop every series with this label: of a shard or a generation that is no longer here."""
        for name, made in self._made.items():
            if label in (labels := TABLE[name].labels):
                place = labels.index(label)
                for series in [key for key in made._metrics if key[place] == value]:
                    made.remove(*series)

    def _get(self, name: str, kind: type[M]) -> M:
        made = self._made.get(name)
        if made is None:
            with self._lock:
                if name not in self._made:
                    self._made[name] = _made_of(TABLE[name], self.collectors)
                made = self._made[name]
        assert isinstance(made, kind), name
        return made


class _Histogram(Histogram):
    """Finds the bucket by bisection, in half of the time of the loop that it stands for: a query
    observes sixteen times."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count an observation; examples are not kept."""
        assert exemplar is None
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


def _made_of(metric: Metric, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    if metric.kind == "histogram":
        return _Histogram(
            metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=registry
        )
    made = Counter if metric.kind == "counter" else Gauge
    return made(metric.name, metric.help, metric.labels, registry=registry)


class _ProcessMemory(Collector):
    """At each scrape: memory that is of mapped files, and memory that is the process's own."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Both gauges; nothing where there is no /proc."""
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return
        yield from _memory(lines)


def _memory(lines: Iterable[str]) -> Iterator[GaugeMetricFamily]:
    kib = {
        key: int(rest.split()[0])
        for line in lines
        for key, _, rest in (line.partition(":"),)
        if key in ("RssFile", "RssAnon")
    }
    for name, key in (
        ("tartan_resident_file_bytes", "RssFile"),
        ("tartan_resident_anonymous_bytes", "RssAnon"),
    ):
        if key in kib:
            yield GaugeMetricFamily(name, TABLE[name].help, kib[key] * 1024)
