"""Spherical k-means: the one global centroid table.

Shapes: S sample tokens, D dimensions, C centroids.

Lloyd's algorithm on the unit sphere (Dhillon & Modha 2001), as ColBERTv2 uses it: assign each
vector to the centroid with the largest inner product, replace each centroid by the normalised sum
of its vectors. Every distance is one matrix product, so it runs in torch: bf16 where the processor
multiplies it natively, fp32 elsewhere, on the GPU where there is one. Imported when an index is
built, never when one is searched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from colbert_core.hardware import bf16_is_native
from colbert_core.types import F32, I32, AnyArray

SAMPLE_PER_CENTROID = 48
"""Vectors and rounds trade training time for residuals: docs/decisions/codec.md has the curve."""
ITERATIONS = 6
CHUNK = 512
OFFSET = 1.05
"""Above every inner product of unit vectors, rounding included."""


class NearestCentroid:
    """Assigns unit vectors to unit centroids by the largest inner product."""

    def __init__(self, centroids_CD: F32) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        native = self._device.type == "cuda" or bf16_is_native()
        self._dtype = torch.bfloat16 if native else torch.float32
        self._centroids_CD = self._place(torch.from_numpy(centroids_CD))
        self._bias_C = self._place(torch.full((len(centroids_CD),), -OFFSET))

    def __call__(self, vectors_TD: F32) -> I32:
        """float32 [T, D] → int32 [T], the code of each vector."""
        codes_T = np.empty(len(vectors_TD), np.int32)

        def assign(start: int) -> None:
            x_TD = self._place(torch.from_numpy(vectors_TD[start : start + CHUNK]))
            codes_T[start : start + CHUNK] = self._best(x_TD)

        _each_on_one_thread(assign, range(0, len(vectors_TD), CHUNK))
        return codes_T

    def _best(self, x_TD: torch.Tensor) -> AnyArray:
        """The column of each row's largest product.

        The offset is taken off inside the product, before it is rounded, for two ends: the best
        are near 0 then and keep their digits in bf16; and all are below 0, where a float's bits,
        read as an integer, grow as it falls. So the largest product is the smallest integer, which
        numpy finds in a fraction of the time that torch takes for the largest bf16.
        """
        products_TC = torch.nn.functional.linear(x_TD, self._centroids_CD, self._bias_C)
        if self._device.type == "cuda":
            return np.asarray(products_TC.argmax(dim=1).cpu())
        bits = torch.int16 if self._dtype == torch.bfloat16 else torch.int32
        integers_TC: AnyArray = products_TC.view(bits).numpy()
        return np.asarray(integers_TC.argmin(axis=1))

    def _place(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._device, self._dtype)


def _each_on_one_thread(work: Callable[[int], None], chunks: Iterable[int]) -> None:
    """Run chunks on as many threads as torch may use, each chunk on one of them alone.

    Torch's own threads wait for each other after every operation: on a machine with other work
    that is up to ten times as slow as this.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1)) as pool:
            for _ in pool.map(work, chunks):
                pass  # an error in a thread is raised here
    finally:
        torch.set_num_threads(threads)


def default_centroids(total_tokens: int) -> int:
    """The paper's count, 2^⌊log2(16·√tokens)⌋, never more than one centroid for four tokens."""
    by_paper = 1 << int(np.log2(16 * max(1.0, total_tokens) ** 0.5))
    return max(1, min(by_paper, total_tokens // 4))


def spherical_kmeans(
    sample_SD: F32,
    count: int,
    *,
    seed: int,
    on_iteration: Callable[[int, int], None] | None = None,
) -> F32:
    """Centroids of a sample, unit length, float32 [C, D]; the same for the same seed and machine.

    Args:
        sample_SD: float32 [S, D], unit vectors; at most `SAMPLE_PER_CENTROID` a centroid are used.
        count: C; cut to the number of distinct places to start from, S.
        on_iteration: called with (iterations done, iterations in all).
    """
    rng = np.random.default_rng(seed)
    count = min(count, len(sample_SD))
    budget = count * SAMPLE_PER_CENTROID
    if len(sample_SD) > budget:
        sample_SD = sample_SD[np.sort(rng.choice(len(sample_SD), budget, replace=False))]
    centroids_CD = sample_SD[rng.choice(len(sample_SD), count, replace=False)]
    for done in range(ITERATIONS):
        codes_S = NearestCentroid(centroids_CD)(sample_SD)
        centroids_CD = _means(sample_SD, codes_S, count, rng)
        if on_iteration:
            on_iteration(done + 1, ITERATIONS)
    return centroids_CD


def _means(sample_SD: F32, codes_S: I32, count: int, rng: np.random.Generator) -> F32:
    """Normalised sums; a cluster that is empty, or sums to nothing, restarts at a random vector."""
    sums = torch.zeros(count, sample_SD.shape[1])
    sums.index_add_(0, torch.from_numpy(codes_S), torch.from_numpy(sample_SD))
    sums_CD: F32 = sums.numpy()
    norms_C = np.linalg.norm(sums_CD, axis=1)
    dead = np.flatnonzero(norms_C < 1e-6)
    sums_CD[dead] = sample_SD[rng.choice(len(sample_SD), len(dead))]
    norms_C[dead] = 1.0
    sums_CD /= norms_C[:, None]
    return sums_CD
