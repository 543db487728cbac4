"""The same metrics through Ray: where the process is a Ray worker, Ray's own endpoint shows them.

Every few seconds a thread copies the samples of the registry to `ray.util.metrics`, which adds
`ray_` to their names, and labels for node and worker. Nothing of it stands in the way of a query.

Counters go as counters, by what they grew. All the rest goes as gauges, a histogram as its samples
(`_bucket`, `_count`, `_sum`): Ray's own histograms would lose the sum, which they guess from the
middle of each bucket, and PromQL asks by name, so that quantiles are computed as ever.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

log = logging.getLogger(__name__)

INTERVAL_S = 5.0  # Ray forgets a gauge that is not set for two of its intervals, of 10 s each

Instrument = Callable[[str, str, tuple[str, ...]], Any]
"""(name, help, labels) → a `ray.util.metrics.Counter` or `Gauge`."""


class RayBridge:
    """A thread that copies, until `stop`."""

    def __init__(self, collectors: CollectorRegistry, interval_s: float = INTERVAL_S) -> None:
        from ray.util import metrics

        self._collectors = collectors
        self._interval_s = interval_s
        self._copier = Copier(metrics.Counter, metrics.Gauge)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Copy no more."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self._copier.copy(self._collectors)
            except Exception:
                log.exception("metrics cannot be handed to Ray any more; /metrics goes on")
                return


class Copier:
    """Makes an instrument for each name, and remembers what counters stood at."""

    def __init__(self, counter: Instrument, gauge: Instrument) -> None:
        self._counter = counter
        self._gauge = gauge
        self._made: dict[str, Any] = {}
        self._before: dict[tuple[str, tuple[str, ...]], float] = {}

    def copy(self, collectors: CollectorRegistry) -> None:
        """Hand over every sample that stands in the registry now."""
        for family in collectors.collect():
            for sample in family.samples:
                if family.type == "counter":
                    self._grow(sample, family.documentation)
                else:
                    made = self._instrument(self._gauge, sample, family.documentation)
                    made.set(sample.value, sample.labels)

    def _grow(self, sample: Sample, help: str) -> None:
        key = (sample.name, tuple(sample.labels.values()))
        grown = sample.value - self._before.get(key, 0.0)
        if grown > 0:
            self._instrument(self._counter, sample, help).inc(grown, sample.labels)
        self._before[key] = sample.value

    def _instrument(self, make: Instrument, sample: Sample, help: str) -> Any:
        if sample.name not in self._made:
            self._made[sample.name] = make(sample.name, help, tuple(sample.labels))
        return self._made[sample.name]
