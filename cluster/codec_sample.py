"""The vectors that the codec is trained on: what the workers kept of the sampled units.

Shapes: S sample tokens, D dimensions of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from colbert_core.errors import JobFailed
from colbert_core.text.projection import fit_pca
from colbert_core.types import F16, F32
from workers.encoder import project
from workers.units import Staging

PCA_TOKENS = 200_000


@dataclass(frozen=True, slots=True)
class KeptVectors:
    """The kept vectors of some units, `tokens` in all."""

    staging: Staging
    units: tuple[int, ...]
    tokens: int

    def projected(self, projection: F32 | None) -> Iterator[F32]:
        """Unit by unit, projected and normalised, float32 [T, D]."""
        read = 0
        for vectors_TD in self.parts():
            read += len(vectors_TD)
            yield project(vectors_TD, projection)
        if read != self.tokens:
            raise JobFailed(
                f"{self.staging.folder}: the sample has {read:,} vectors and {self.tokens:,} "
                "were written; something else changes the staging folder"
            )

    def parts(self) -> Iterator[F16]:
        """Unit by unit, float16 [T, D] as the model gave them."""
        for unit in self.units:
            kept = self.staging.vectors(unit)
            if kept is None:
                raise JobFailed(
                    f"{self.staging.vectors_path(unit)}: a worker wrote this file, but it is not "
                    "here; --out must be a folder that the driver and all workers share"
                )
            yield kept.on_host()


def fit_projection(kept: KeptVectors, dim: int, seed: int) -> F32 | None:
    """PCA to `dim` dimensions on a random share of the vectors; None where nothing is to be cut."""
    first_TD = next(kept.parts())
    if dim >= first_TD.shape[1]:
        return None
    rng = np.random.default_rng(seed)
    share = min(1.0, PCA_TOKENS / kept.tokens)
    rows = [part_TD[rng.random(len(part_TD)) < share] for part_TD in kept.parts()]
    return fit_pca(project(np.concatenate(rows), None), dim)
