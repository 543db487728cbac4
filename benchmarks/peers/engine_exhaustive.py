"""Exhaustive MaxSim in numpy, fp32, over the uncompressed vectors: what an index has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from adapter import Engine, Vectors, run


class Exhaustive(Engine):
    """See `adapter.Engine`. The index is the vectors themselves, as float32."""

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> None:
        """Copy the vectors; no options."""
        del options
        index.mkdir(parents=True, exist_ok=True)
        np.save(index / "tokens.npy", np.asarray(vectors.tokens, dtype=np.float32))
        np.save(index / "starts.npy", vectors.offsets[:-1])

    def open(self, index: Path) -> None:
        """Read everything into memory."""
        self.tokens_TD = np.load(index / "tokens.npy")
        self.starts_N = np.load(index / "starts.npy")

    def prepare(self, query_LD: np.ndarray) -> np.ndarray:
        """float32 [D, L]."""
        return np.ascontiguousarray(query_LD.T, dtype=np.float32)

    def search(self, query: np.ndarray, k: int, setting: dict[str, Any]) -> list[int]:
        """No settings."""
        del setting
        best_NL = np.maximum.reduceat(self.tokens_TD @ query, self.starts_N, axis=0)
        scores_N = best_NL.sum(axis=1)
        top = np.argpartition(-scores_N, k)[:k] if k < len(scores_N) else np.arange(len(scores_N))
        return [int(pid) for pid in top[np.lexsort((top, -scores_N[top]))]]


if __name__ == "__main__":
    run(Exhaustive)
