"""Tartan under the benchmark: `colbert_core.Index`, as a user would call it.

Its answers carry string ids, which are looked up within the measured time.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from adapter import Engine, Vectors, run

from colbert_core import Index


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


class Tartan(Engine):
    """See `adapter.Engine`."""

    def import_builder(self) -> None:
        """k-means imports torch; searching never does."""
        import_module("colbert_core.codec.kmeans")

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> None:
        """Options: `bits`, `codec`."""
        # The fp16 rounding that all engines get moves lengths by up to 5e-4.
        Index.build(index, Passages(vectors), normalize=True, **options)

    def open(self, index: Path) -> None:
        """Map the index."""
        self.index = Index.open(index)

    def prepare(self, query_LD: np.ndarray) -> np.ndarray:
        """float32 [L, D]."""
        return np.ascontiguousarray(query_LD, dtype=np.float32)

    def search(self, query: np.ndarray, k: int, setting: dict[str, Any]) -> list[int]:
        """Settings: `recall`, or `nprobe` and `candidates`; none: the default recall."""
        return [int(hit.id) for hit in self.index.search(query, k=k, **setting)]


if __name__ == "__main__":
    run(Tartan)
