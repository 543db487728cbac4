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
from colbert_core.types import F32, I32

SAMPLE_PER_CENTROID = 48
"""Vectors and rounds trade training time for residuals: docs/decisions/codec.md has the curve."""
ITERATIONS = 6
CHUNK = 512
BLOCK = 128
OFFSET = 0.8
"""Near the best inner products, so that what is left of them keeps its digits in bf16."""


class NearestCentroid:
    """Assigns vectors to centroids by the largest inner product."""

    def __init__(self, centroids_CD: F32) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        native = self._device.type == "cuda" or bf16_is_native()
        self._dtype = torch.bfloat16 if native else torch.float32
        self._block = min(BLOCK, len(centroids_CD))
        # A last block that is not full is filled with the first centroid, which wins all its ties.
        missing = -len(centroids_CD) % self._block
        padded_CD = np.concatenate([centroids_CD, np.repeat(centroids_CD[:1], missing, axis=0)])
        self._centroids_CD = self._place(torch.from_numpy(padded_CD))
        self._bias_C = self._place(torch.full((len(padded_CD),), -OFFSET))

    def __call__(self, vectors_TD: F32) -> I32:
        """float32 [T, D] → int32 [T], the code of each vector."""
        codes_T = np.empty(len(vectors_TD), np.int32)

        def assign(start: int) -> None:
            x_TD = self._place(torch.from_numpy(vectors_TD[start : start + CHUNK]))
            codes_T[start : start + CHUNK] = self._best(x_TD).cpu().numpy()

        _each_on_one_thread(assign, range(0, len(vectors_TD), CHUNK))
        return codes_T

    def _best(self, x_TD: torch.Tensor) -> torch.Tensor:
        """The largest of each row: of each block, of the blocks, then of the winning block.

        Two maxima and a small argmax are several times as fast as one argmax over all centroids.
        """
        scores_TC = torch.nn.functional.linear(x_TD, self._centroids_CD, self._bias_C)
        blocks = scores_TC.view(len(x_TD), -1, self._block)
        winner_T = blocks.amax(dim=2).argmax(dim=1)
        inside_T = blocks[torch.arange(len(x_TD), device=self._device), winner_T].argmax(dim=1)
        return winner_T * self._block + inside_T

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
