"""An order of centroids in which neighbours are alike.

Shapes: C centroids, D dimensions.
"""

from __future__ import annotations

import numpy as np

from colbert_core import kernels
from colbert_core.types import F32, I64

_ROUNDS = 4


def by_likeness(centroids_CD: F32, rng: np.random.Generator) -> I64:
    """A permutation [C]: halves are split by two means, evenly, down to single runs.

    Another state of `rng` gives other halves, so that centroids which one order tears apart lie
    together in the next.
    """
    order_C = np.arange(len(centroids_CD))
    spans = [(0, len(order_C))]
    while spans:
        first, last = spans.pop()
        if last - first <= kernels.RUN:
            continue
        part = order_C[first:last]
        half = -(-len(part) // (2 * kernels.RUN)) * kernels.RUN
        order_C[first:last] = part[_halves(centroids_CD[part], half, rng)]
        spans += [(first, first + half), (first + half, last)]
    return order_C


def _halves(vectors_CD: F32, half: int, rng: np.random.Generator) -> I64:
    """A permutation that puts `half` vectors that are alike before the others."""
    means_2D = vectors_CD[rng.choice(len(vectors_CD), 2, replace=False)]
    for _ in range(_ROUNDS):
        lean_C = vectors_CD @ (means_2D[1] - means_2D[0])
        order_C = np.argpartition(lean_C, half - 1)
        means_2D = np.stack(
            [vectors_CD[order_C[:half]].mean(axis=0), vectors_CD[order_C[half:]].mean(axis=0)]
        )
        means_2D /= np.maximum(np.linalg.norm(means_2D, axis=1, keepdims=True), 1e-12)
    return order_C
