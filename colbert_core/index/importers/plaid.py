"""Indexes of fast-plaid and of next-plaid, which share one layout of `.npy` files.

    metadata.json                    `nbits`, `num_chunks`, counts
    I.metadata.json, doclens.I.json  the counts of a chunk; tokens of each of its passages
    I.codes.npy, I.residuals.npy     int64 [T], uint8 [T, B]
    merged_codes.npy, …              from fast-plaid 1.7 on: all chunks, one after the other, then
                                     rows of zeros; a chunk's own files, where there are any, are
                                     newer. merged_codes.manifest.json has the rows of each chunk
    centroids.npy                    float16 or float32 [C, D]; updates append rows
    bucket_cutoffs.npy, bucket_weights.npy
    ivf.npy, ivf_lengths.npy         passages end to end, how many each centroid has
    metadata.db                      fast-plaid: SQLite, a row of metadata for each passage

Passages are numbered from 0 without gaps: deleting renumbers those behind. next-plaid's binary and
ternary residuals are other codecs, and are refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.errors import IndexCorrupt, InvalidInput
from colbert_core.index.importers.source import (
    Chunk,
    Rows,
    Source,
    read_count,
    read_doclens,
    read_json,
    stated_counts,
)
from colbert_core.npy import map_npy, read_npy
from colbert_core.types import I64, AnyArray

FAST, NEXT = "fast-plaid", "next-plaid"


def is_plaid(path: Path) -> bool:
    """Whether a folder looks like one of either."""
    return (path / "centroids.npy").is_file() and (path / "bucket_weights.npy").is_file()


def open_plaid(path: Path) -> Source:
    """Open an index of fast-plaid or next-plaid.

    Raises:
        IndexCorrupt: a file is missing or damaged.
        InvalidInput: its residuals are not those of the ColBERTv2 codec.
    """
    about = read_json(path / "metadata.json")
    chunks = read_count(about, "num_chunks", path / "metadata.json")
    for codec in ("binary", "ternary"):
        if about.get(codec):
            raise InvalidInput(
                f"{path}: its residuals are {codec}; those of 1, 2 and 4 bits can be imported"
            )
    doclens = [read_doclens(path / f"doclens.{i}.json") for i in range(chunks)]
    notes: list[str] = []
    return Source(
        path=path,
        format=NEXT if about.get("next_plaid_compatible") else FAST,
        bits=read_count(about, "nbits", path / "metadata.json"),
        centroids_CD=_map(path / "centroids.npy"),
        cutoffs=_floats(path / "bucket_cutoffs.npy"),
        weights=_floats(path / "bucket_weights.npy"),
        doclens=doclens,
        open_chunk=_Chunks(path, doclens).open,
        ivf=_ivf(path),
        stated=stated_counts(
            about, passages="num_documents", tokens="num_embeddings", centroids="num_partitions"
        ),
        metadata=_metadata(path),
        notes=notes,
    )


class _Chunks:
    """Where the tokens of each chunk lie: in files of its own, or among the merged rows."""

    def __init__(self, path: Path, doclens: list[I64]) -> None:
        self._path = path
        self._tokens = [int(part.sum()) for part in doclens]

    def open(self, number: int) -> Chunk:
        return Chunk(self._part(number, "codes"), self._part(number, "residuals"))

    def _part(self, number: int, part: str) -> AnyArray:
        own = self._path / f"{number}.{part}.npy"
        if own.is_file():
            return _map(own)
        start, rows = self._place(number, part)
        merged = _map(self._path / f"merged_{part}.npy")
        if start + rows > len(merged):
            raise IndexCorrupt(
                f"{self._path / f'merged_{part}.npy'}: chunk {number} ends at row {start + rows} "
                f"of {len(merged)}"
            )
        return merged[start : start + rows]

    def _place(self, number: int, part: str) -> tuple[int, int]:
        """(first row, rows) of a chunk among the merged ones."""
        rows = list(self._tokens)
        path = self._path / f"merged_{part}.manifest.json"
        if path.is_file():  # an index frozen by an older version has none
            manifest = read_json(path)
            for i in range(number + 1):
                entry = manifest.get(f"{i}.{part}.npy") if isinstance(manifest, dict) else None
                if entry is not None:
                    rows[i] = read_count(entry, "rows", path)
        return sum(rows[:number]), rows[number]


def _map(path: Path) -> AnyArray:
    try:
        return map_npy(path)
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path}: the array cannot be read: {error}") from error


def _floats(path: Path) -> AnyArray:
    try:
        return read_npy(path).astype(np.float32)
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path}: the array cannot be read: {error}") from error


def _ivf(path: Path) -> tuple[AnyArray, AnyArray] | None:
    """Their postings; an index that was only compressed has none."""
    names = path / "ivf.npy", path / "ivf_lengths.npy"
    return (_map(names[0]), _map(names[1])) if all(name.is_file() for name in names) else None


def _metadata(path: Path) -> Rows | None:
    """Rows of fast-plaid's metadata in the order of passages, without what is null."""
    database = path / "metadata.db"
    if not database.is_file():
        return None

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        try:
            # as_uri quotes what a path may hold; "immutable" makes no journal beside the file
            connection = sqlite3.connect(f"{database.resolve().as_uri()}?immutable=1", uri=True)
            try:
                found = connection.execute("SELECT * FROM METADATA ORDER BY _subset_")
                names = [column[0] for column in found.description]
                at = names.index("_subset_")
                for row in found:
                    yield (
                        row[at],
                        {
                            name: value
                            for name, value in zip(names, row, strict=True)
                            if name != "_subset_" and isinstance(value, str | int | float)
                        },
                    )
            finally:
                connection.close()
        except (sqlite3.Error, ValueError) as error:
            raise IndexCorrupt(f"{database}: it cannot be read: {error}") from error

    return rows
