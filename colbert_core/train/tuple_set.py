"""Checked tuples on disk, read by ordinal: what training and scoring work on.

    tuples = TupleSet(folder)           # what `preparing.py` wrote
    tuples.example(7).passages

Everything is mapped: memory does not grow with the data, and all workers that see the folder share
it.

Shapes: N tuples, W passages of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from colbert_core.train.records import Record
from colbert_core.train.text_store import TextStore
from colbert_core.types import F32, I64, AnyArray


@dataclass(frozen=True, slots=True)
class Example:
    """One tuple as texts; `scores_W` float32 [W] is a teacher's, or None."""

    query: str
    passages: tuple[str, ...]
    scores_W: F32 | None


class TupleSet:
    """Tuples that `prepare_tuples` has checked and written.

    Attributes:
        n_way: passages of each, W.
        scored: whether a teacher has scored them.
        inline: whether they came as texts, without ids.
        sha256: of all texts, rows and scores: the identity of the data.
    """

    def __init__(self, folder: Path) -> None:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.n_way: int = about["n_way"]
        self.scored: bool = about["scored"]
        self.inline: bool = about["inline"]
        self.sha256: str = about["sha256"]
        self._queries_N: I64 = np.memmap(folder / "queries.bin", np.int64, "r")
        self._passages_NW: I64 = self._table("passages.bin", np.int64)
        self._scores_NW: F32 = self._table("scores.bin", np.float32)
        self._queries, self._passages = TextStore(folder / "queries"), TextStore(folder / "texts")

    def _table(self, name: str, dtype: npt.DTypeLike) -> AnyArray:
        return np.memmap(self.folder / name, dtype, "r").reshape(-1, self.n_way)

    def __len__(self) -> int:
        return len(self._queries_N)

    def example(self, ordinal: int) -> Example:
        """The texts of one tuple."""
        scores_W = np.array(self._scores_NW[ordinal]) if self.scored else None
        passages = tuple(self._passages.text(int(row)) for row in self._passages_NW[ordinal])
        return Example(self._queries.text(int(self._queries_N[ordinal])), passages, scores_W)

    def passages(self) -> list[str]:
        """Every text that some tuple has as a passage, once each."""
        rows = np.unique(self._passages_NW)
        return list(dict.fromkeys(self._passages.text(int(row)) for row in rows))

    def queries(self) -> list[str]:
        """Every query, once each."""
        rows = np.unique(self._queries_N)
        return list(dict.fromkeys(self._queries.text(int(row)) for row in rows))

    def record(self, ordinal: int, scores_W: F32 | None = None) -> Record:
        """One tuple as it came, with these scores or its own."""
        if scores_W is None and self.scored:
            scores_W = self._scores_NW[ordinal]
        name, passage = self._queries.id, self._passages.id
        if self.inline:
            name, passage = self._queries.text, self._passages.text
        return Record(
            name(int(self._queries_N[ordinal])),
            tuple(passage(int(row)) for row in self._passages_NW[ordinal]),
            None if scores_W is None else tuple(float(score) for score in scores_W),
            self.inline,
        )
