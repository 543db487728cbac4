"""fast-plaid 1.7.0 under the benchmark: its documented `create` and `search`, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter import Engine, Vectors, run
from fast_plaid.search import FastPlaid


class FastPlaidEngine(Engine):
    """See `adapter.Engine`."""

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> None:
        """Options: `bits`."""
        documents = [torch.from_numpy(vectors.passage(pid).copy()) for pid in range(len(vectors))]
        engine = FastPlaid(index=str(index), device="cpu")
        engine.create(documents_embeddings=documents, nbits=options["bits"])

    def open(self, index: Path) -> None:
        """Load the index; it is read at the first search."""
        self.engine = FastPlaid(index=str(index), device="cpu")

    def prepare(self, query_LD: np.ndarray) -> torch.Tensor:
        """float16 [1, L, D], which is what its search converts to."""
        return torch.from_numpy(query_LD).half().unsqueeze(0)

    def search(self, query: torch.Tensor, k: int, setting: dict[str, Any]) -> list[int]:
        """Settings: `n_ivf_probe`, `n_full_scores`; none: its defaults (8, 4096)."""
        found = self.engine.search(query, top_k=k, show_progress=False, n_processes=1, **setting)
        return [pid for pid, _ in found[0]]


if __name__ == "__main__":
    run(FastPlaidEngine)
