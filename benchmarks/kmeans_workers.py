"""k-means on the workers of a real Ray: seconds, and the peak memory of driver and workers.

    python benchmarks/kmeans_workers.py VECTORS [WORKERS]

VECTORS random clustered vectors of 128 dimensions are put where the sampled units of a build would
be, 4,096 centroids are trained on them by 1 or more workers, and the peak resident memory is
printed. With WORKERS 0 this process does it, as `Index.build` does.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import ray

from cluster.plan import WorkerPlan
from cluster.ray_session import ray_session
from cluster.worker_pool import WorkerPool
from cluster.workers_sample import workers_sample
from colbert_core.codec.kmeans import spherical_kmeans
from colbert_core.codec.rows import Rows
from colbert_core.codec.sample import MemorySample
from colbert_core.types import F16, F32
from workers import encoder
from workers.encoder import LoadedModel, UnitResult, WorkerSettings
from workers.sample_worker import project
from workers.units import Staging, UnitVectors

DIM, CENTROIDS, UNIT = 128, 4096, 50_000


class Bare(encoder.EncoderWorker):
    """A worker without a model, which says how much memory it took."""

    def load(self) -> LoadedModel:
        """Nothing is loaded."""
        return LoadedModel({}, os.getpid())

    def peak_mib(self) -> int:
        """Peak resident memory so far, MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def unit(number: int) -> F16:
    """The vectors of one unit, float16 [UNIT, DIM]."""
    centres = np.random.default_rng(0).standard_normal((9000, DIM)).astype(np.float32)
    rng = np.random.default_rng([1, number])
    x = centres[rng.integers(0, len(centres), UNIT)]
    x += rng.standard_normal((UNIT, DIM)).astype(np.float32)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def shown(centroids_CD: F32, began: float) -> str:
    digest = hashlib.sha256(centroids_CD.tobytes()).hexdigest()[:12]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return f"{time.monotonic() - began:.1f} s, centroids {digest}, this process {peak} MiB"


def on_workers(staging: Staging, units: list[UnitResult], workers: int) -> None:
    """Train on workers."""
    from cluster import worker_slots

    worker_slots.EncoderWorker = Bare  # type: ignore[misc]
    plan = WorkerPlan(workers, workers, 1.0, 0.0, 1)
    settings = WorkerSettings(str(staging.folder), "", None, None, 1)
    with (
        ray_session(purpose="a benchmark", cpus=workers),
        WorkerPool(plan, settings, print) as pool,
    ):
        pool.first_model()
        while len(pool.slots.ready) < workers:
            for slot in pool.slots:
                if slot.loading is not None:
                    pool.slots.settle_loading(slot)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        began = time.monotonic()
        with workers_sample(pool, staging, units) as sample:
            sample.prepare(None, None)
            print(f"  prepared after {time.monotonic() - began:.1f} s; {before} MiB before")
            print(" ", shown(spherical_kmeans(sample, CENTROIDS, seed=0), began))
        peaks = ray.get([slot.actor.peak_mib.remote() for slot in pool.slots], timeout=60)
        print(f"  workers {peaks} MiB")


def main() -> None:
    """See the module."""
    vectors, workers = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    with tempfile.TemporaryDirectory() as folder:
        staging = Staging(Path(folder))
        staging.create()
        units = []
        for number in range(-(-vectors // UNIT)):
            kept = UnitVectors(unit(number), np.array([UNIT], np.int32), 0)
            entry = staging.write_vectors(number, kept)
            units.append(UnitResult(number, 1, UNIT, 0, (), entry))
        print(f"{len(units) * UNIT:,} vectors, {workers} workers")
        if workers:
            on_workers(staging, units, workers)
            return
        began = time.monotonic()
        parts = []
        for one in units:
            kept_again = staging.vectors(one.unit)
            assert kept_again is not None
            parts.append(Rows.of(project(kept_again.vectors_TD, None)))
        sample = MemorySample(Rows.gather(parts))
        print(" ", shown(spherical_kmeans(sample, CENTROIDS, seed=0), began))


if __name__ == "__main__":
    main()
