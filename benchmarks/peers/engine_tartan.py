"""Tartan under the benchmark: `colbert_core.Index`, as a user would call it.

Its answers carry string ids, which are looked up within the measured time.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from adapter import Engine, Vectors, run

from colbert_core import Index
from colbert_core.codec.kmeans import default_centroids


class Passages:
    """The vectors as an iterable that can be iterated again, as `Index.build` likes it."""

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, pid: int) -> np.ndarray:
        if not 0 <= pid < len(self.vectors):
            raise IndexError(pid)
        return self.vectors.passage(pid)


class StageClock:
    """Seconds by stage, from `on_progress`: time belongs to the stage that reports at its end.

    What follows the last report is writing: postings, ids, checksums, the manifest.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


class Tartan(Engine):
    """See `adapter.Engine`."""

    def import_builder(self) -> None:
        """k-means imports torch; searching never does."""
        import_module("colbert_core.codec.kmeans")

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> dict[str, float]:
        """Options: `bits`, `codec`, and `centroids_factor`, times as many as by default."""
        clock = StageClock()
        options = dict(options)
        factor = options.pop("centroids_factor", None)
        if factor:
            options["centroids"] = factor * default_centroids(len(vectors.tokens))
        # The fp16 rounding that all engines get moves lengths by up to 5e-4.
        Index.build(index, Passages(vectors), normalize=True, on_progress=clock, **options)
        clock("write", 1, 1)
        return dict(clock.seconds)

    def open(self, index: Path) -> None:
        """Map the index."""
        self.index = Index.open(index)

    def prepare(self, query_LD: np.ndarray) -> np.ndarray:
        """float32 [L, D]."""
        return np.ascontiguousarray(query_LD, dtype=np.float32)

    def search(self, query: np.ndarray, k: int, setting: dict[str, Any]) -> list[str]:
        """Settings: `recall`, `exact`, or `nprobe`, `candidates_per_hit` and perhaps `scored` or
        `scored_per_hit`; none: the default."""
        return self.index.search(query, k=k, **_knobs(setting, k)).ids

    def search_many(
        self, queries: Sequence[np.ndarray], k: int, setting: dict[str, Any], threads: int
    ) -> None:
        """`Index.search_many`."""
        self.index.search_many(queries, k=k, threads=threads, **_knobs(setting, k))


def _knobs(setting: dict[str, Any], k: int) -> dict[str, Any]:
    knobs = dict(setting)
    for name in ("candidates", "scored"):
        if f"{name}_per_hit" in knobs:
            knobs[name] = round(k * knobs.pop(f"{name}_per_hit"))
    return knobs


if __name__ == "__main__":
    run(Tartan)
