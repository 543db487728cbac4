"""xtr-warp-rs 2.1.0 under the benchmark: its documented `create`, `load` and `search`, on the CPU.

It imputes the similarities that it did not compute, so its ranking is not MaxSim's: read its
overlap beside its nDCG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter import Engine, Vectors, run
from xtr_warp.search import XTRWarp


class XtrWarpEngine(Engine):
    """See `adapter.Engine`."""

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> None:
        """Options: `bits`."""
        documents = [torch.from_numpy(vectors.passage(pid).copy()) for pid in range(len(vectors))]
        engine = XTRWarp(index=str(index))
        engine.create(documents, device="cpu", nbits=options["bits"], show_progress=False)

    def open(self, index: Path) -> None:
        """Load the index with its defaults (float32, memory-mapped)."""
        self.engine = XTRWarp(index=str(index))
        self.engine.load(device="cpu")

    def prepare(self, query_LD: np.ndarray) -> torch.Tensor:
        """float32 [1, L, D]."""
        return torch.from_numpy(query_LD).unsqueeze(0)

    def search(self, query: torch.Tensor, k: int, setting: dict[str, Any]) -> list[int]:
        """Settings: `nprobe`, `bound`, `t_prime`, …; none: chosen by the library from k."""
        found = self.engine.search(
            query, top_k=k, num_threads=self.threads, show_progress=False, **setting
        )
        return [pid for pid, _ in found[0]]

    def search_many(
        self, queries: Sequence[torch.Tensor], k: int, setting: dict[str, Any], threads: int
    ) -> None:
        """Its own batches, which it pads: it cannot be called from a second thread."""
        batch = [query[0] for query in queries]
        self.engine.search(batch, top_k=k, num_threads=threads, show_progress=False, **setting)


if __name__ == "__main__":
    run(XtrWarpEngine)
