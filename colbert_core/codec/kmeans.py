"""Spherical k-means: the one global centroid table.

Shapes: S sample tokens, D dimensions, C centroids.

Lloyd's algorithm on the unit sphere (Dhillon & Modha 2001), as ColBERTv2 uses it: assign each
vector to the centroid with the largest inner product, replace each centroid by the normalised sum
of its vectors. No round compares every vector with every centroid: centroids move little, so a
vector looks at those around its present one, which takes a tenth of the time and pays for more
rounds. What is around is drawn anew each time, so that what one drawing parts the next may join.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from colbert_core.codec.order import by_likeness
from colbert_core.codec.rows import SUM_UNIT
from colbert_core.codec.sample import Sample
from colbert_core.types import F32, I32, I64

SAMPLE_PER_CENTROID = 48
"""Vectors and rounds trade training time for residuals: docs/decisions/building.md."""
ITERATIONS = 11


def default_centroids(total_tokens: int) -> int:
    """The paper's count, 2^⌊log2(16·√tokens)⌋, never more than one centroid for four tokens."""
    by_paper = 1 << int(np.log2(16 * max(1.0, total_tokens) ** 0.5))
    return max(1, min(by_paper, total_tokens // 4))


def spherical_kmeans(
    sample: Sample,
    count: int,
    *,
    seed: int,
    on_iteration: Callable[[int, int], None] | None = None,
) -> F32:
    """Centroids of a sample, unit length, float32 [C, D], neighbours alike.

    The same sample and seed give the same centroids, however many threads or workers hold it.

    Args:
        sample: unit vectors; `SAMPLE_PER_CENTROID` for each centroid are enough.
        count: C; cut to the number of distinct places to start from, S.
        on_iteration: called with (iterations done, iterations in all).
    """
    rng = np.random.default_rng(seed)
    count = min(count, len(sample))
    start_C = rng.choice(len(sample), count, replace=False)
    centroids_CD = _unit(sample.rows(start_C).floats(), sample, rng)
    centroids_CD = centroids_CD[by_likeness(centroids_CD, rng)]
    rank_C: I32 | None = None
    for done in range(1, ITERATIONS + 1):
        # The sums are twice as large as what comes of them, and go at once.
        centroids_CD = _unit(_as_floats(sample.assign(centroids_CD, rank_C)), sample, rng)
        order_C = by_likeness(centroids_CD, rng)
        centroids_CD = centroids_CD[order_C]
        rank_C = np.empty(count, np.int32)
        rank_C[order_C] = np.arange(count, dtype=np.int32)
        if on_iteration:
            on_iteration(done, ITERATIONS)
    return centroids_CD


def _as_floats(sums_CD: I64) -> F32:
    floats_CD: F32 = sums_CD.astype(np.float32)
    floats_CD *= SUM_UNIT
    return floats_CD


def _unit(means_CD: F32, sample: Sample, rng: np.random.Generator) -> F32:
    """Sums at unit length; what is empty, or sums to nothing, restarts at a random vector."""
    norms_C = np.linalg.norm(means_CD, axis=1)
    dead = np.flatnonzero(norms_C < 1e-6)
    if len(dead):
        means_CD[dead] = sample.rows(rng.choice(len(sample), len(dead))).floats()
        norms_C[dead] = np.maximum(np.linalg.norm(means_CD[dead], axis=1), 1e-12)
    means_CD /= norms_C[:, None]
    return means_CD
