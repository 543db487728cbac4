"""An order of centroids in which neighbours are alike.

Shapes: C centroids, D dimensions.
"""

from __future__ import annotations

import numpy as np

from colbert_core import kernels
from colbert_core.types import F32, I64

_ROUNDS = 2


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
    total_D = vectors_CD.sum(axis=0)
    first_D, second_D = vectors_CD[rng.choice(len(vectors_CD), 2, replace=False)]
    chosen_C = np.empty(len(vectors_CD), np.float32)
    for _ in range(_ROUNDS):
        order_C = np.argpartition(vectors_CD @ (second_D - first_D), half - 1)
        chosen_C[order_C[:half]] = 1
        chosen_C[order_C[half:]] = 0
        first_D = chosen_C @ vectors_CD
        second_D = total_D - first_D
        first_D /= max(float(np.linalg.norm(first_D)), 1e-12)
        second_D /= max(float(np.linalg.norm(second_D)), 1e-12)
    return order_C
