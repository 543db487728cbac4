"""Exhaustive MaxSim in numpy, fp32, over the uncompressed vectors: what an index has to beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from adapter import Engine, Vectors, run

TOKENS_AT_ONCE = 65_536


class Exhaustive(Engine):
    """See `adapter.Engine`. The index is the vectors themselves, as float32."""

    def build(self, vectors: Vectors, index: Path, options: dict[str, Any]) -> None:
        """Copy the vectors; no options."""
        del options
        index.mkdir(parents=True, exist_ok=True)
        shape = vectors.tokens.shape
        tokens_TD = np.lib.format.open_memmap(index / "tokens.npy", "w+", np.float32, shape)
        for first in range(0, shape[0], TOKENS_AT_ONCE):
            tokens_TD[first : first + TOKENS_AT_ONCE] = vectors.tokens[
                first : first + TOKENS_AT_ONCE
            ]
        tokens_TD.flush()
        np.save(index / "offsets.npy", vectors.offsets)

    def open(self, index: Path) -> None:
        """Map the vectors, and cut the passages into blocks that a product is made of at once."""
        self.tokens_TD = np.load(index / "tokens.npy", mmap_mode="r")
        self.offsets = np.load(index / "offsets.npy")
        wanted = np.arange(0, self.offsets[-1] + TOKENS_AT_ONCE, TOKENS_AT_ONCE)
        self.blocks = np.unique(
            np.searchsorted(self.offsets, wanted).clip(0, len(self.offsets) - 1)
        )

    def prepare(self, query_LD: np.ndarray) -> np.ndarray:
        """float32 [D, L]."""
        return np.ascontiguousarray(query_LD.T, dtype=np.float32)

    def search(self, query: np.ndarray, k: int, setting: dict[str, Any]) -> list[int]:
        """No settings."""
        del setting
        scores_N = np.concatenate(
            [
                self._scores(query, first, last)
                for first, last in zip(self.blocks, self.blocks[1:], strict=False)
            ]
        )
        top = np.argpartition(-scores_N, k)[:k] if k < len(scores_N) else np.arange(len(scores_N))
        return [int(pid) for pid in top[np.lexsort((top, -scores_N[top]))]]

    def _scores(self, query: np.ndarray, first: int, last: int) -> np.ndarray:
        """float32 [last − first], MaxSim of passages."""
        begin, end = self.offsets[first], self.offsets[last]
        starts = self.offsets[first:last] - begin
        dots_TL = self.tokens_TD[begin:end] @ query
        return np.asarray(np.maximum.reduceat(dots_TL, starts, axis=0).sum(axis=1))


if __name__ == "__main__":
    run(Exhaustive)
