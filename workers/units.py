"""The unit of batch work: a run of passages, its files, and how they are written.

    staging/corpus.json           all units, and what their files should be       (driver writes)
    staging/units/000012.arrow    id, text, metadata and place of each passage     (driver writes)
    staging/vectors/000012.npz    float16 vectors, kept for the sampled units      (encoder writes)
    staging/chunks/000012.npz     compressed tokens and passage lengths            (encoder writes)

Every file is written once, under a temporary name, synced and renamed: a unit may be done twice
after a loss, but its file is whole, and the same bytes, whoever wrote it; its size and checksum go
into the job's ledger. What moves through Ray is a `Unit`, never its content.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from colbert_core.codec import Compressed
from colbert_core.index.files import entry_of
from colbert_core.index.manifest import FileEntry
from colbert_core.text.corpus_records import shown_id
from colbert_core.types import F16, I32

if TYPE_CHECKING:
    import torch

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("file", pa.int32(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
    ]
)
_FOLDERS = ("units", "vectors", "chunks")


@dataclass(frozen=True, slots=True)
class Unit:
    """A run of passages that is encoded and compressed as one.

    Attributes:
        index: position among the units.
        first: ordinal of its first passage in the corpus.
        passages: how many there are.
        text_bytes: UTF-8 bytes of their texts.
        first_id, last_id: for messages.
    """

    index: int
    first: int
    passages: int
    text_bytes: int
    first_id: str
    last_id: str

    def __str__(self) -> str:
        return (
            f"unit {self.index} (passages {self.first:,} to {self.first + self.passages - 1:,}, "
            f"ids {shown_id(self.first_id)} to {shown_id(self.last_id)})"
        )


@dataclass(frozen=True, slots=True)
class UnitSlice:
    """The passages `start` to `stop` (exclusive) of one unit."""

    unit: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class UnitRow:
    """One passage as a unit file holds it; `metadata` is JSON, `file` an ordinal, `line` from 1."""

    id: str
    text: str
    metadata: str
    file: int
    line: int


@dataclass(frozen=True, slots=True)
class UnitPassages:
    """The passages of a unit, column by column."""

    ids: list[str]
    texts: list[str]
    metadata: list[str]

    def without(self, rows: Iterable[int]) -> UnitPassages:
        """The passages but for some rows; what is kept stays in order."""
        left_out = set(rows)
        if not left_out:
            return self
        columns = (
            [value for row, value in enumerate(column) if row not in left_out]
            for column in (self.ids, self.texts, self.metadata)
        )
        return UnitPassages(*columns)


@dataclass(frozen=True, slots=True)
class UnitVectors:
    """Vectors of a unit: float16 [T, D], int32 [N] lengths, and how many passages were cut.

    On a GPU the vectors are a tensor there, unless they were read from their file.

    `skipped` are the rows of the unit that were left out; N counts the others. Where long documents
    were split, N counts windows, and `windows_N3`, int32 [N, 3], says which passage of the unit
    (without those left out) each is of, and which of its characters
    (`colbert_core.index.windows`).
    """

    vectors_TD: F16 | torch.Tensor
    doclens_N: I32
    truncated: int
    skipped: tuple[int, ...] = ()
    windows_N3: I32 | None = None

    def on_host(self) -> F16:
        """The vectors, float16 [T, D], wherever they are."""
        if isinstance(self.vectors_TD, np.ndarray):
            return self.vectors_TD
        return cast(F16, self.vectors_TD.cpu().numpy())


@dataclass(frozen=True, slots=True)
class UnitChunk:
    """A compressed unit: its tokens, int32 [N] lengths, how many passages were cut, the rows that
    were left out, and windows as in `UnitVectors`."""

    tokens: Compressed
    doclens_N: I32
    truncated: int
    skipped: tuple[int, ...] = ()
    windows_N3: I32 | None = None


class Staging:
    """The folder of one job's unit files. It must be visible to the driver and to every worker."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def create(self) -> None:
        """Make the folders."""
        for name in _FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    @property
    def plan_path(self) -> Path:
        """Where the list of the units lies."""
        return self.folder / "corpus.json"

    def unit_path(self, unit: int) -> Path:
        """Where a unit's passages lie."""
        return self.folder / "units" / f"{unit:06d}.arrow"

    def vectors_path(self, unit: int) -> Path:
        """Where a sampled unit's vectors lie."""
        return self.folder / "vectors" / f"{unit:06d}.npz"

    def chunk_path(self, unit: int) -> Path:
        """Where a unit's compressed tokens lie."""
        return self.folder / "chunks" / f"{unit:06d}.npz"

    def write_unit(self, unit: int, rows: Sequence[UnitRow]) -> FileEntry:
        """Write the passages of a unit."""
        columns = [[getattr(row, field.name) for row in rows] for field in _SCHEMA]
        table = pa.table(columns, schema=_SCHEMA)

        def write(file: IO[bytes]) -> None:
            with pa.ipc.new_file(file, _SCHEMA) as writer:
                writer.write_table(table)

        return write_whole(self.unit_path(unit), write)

    def passages(self, unit: int) -> UnitPassages:
        """Read the passages of a unit."""
        table = self._table(unit)
        columns = (table.column(name).to_pylist() for name in ("id", "text", "metadata"))
        return UnitPassages(*columns)

    def row(self, unit: int, row: int) -> UnitRow:
        """Read one passage of a unit, with the place it came from."""
        (values,) = self._table(unit).slice(row, 1).to_pylist()
        return UnitRow(**values)

    def _table(self, unit: int) -> Any:
        with pa.memory_map(str(self.unit_path(unit))) as source:
            return pa.ipc.open_file(source).read_all()

    def write_vectors(self, unit: int, vectors: UnitVectors) -> FileEntry:
        """Keep a unit's vectors, so that a sampled unit is not encoded twice."""
        arrays = {
            "vectors": vectors.on_host(),
            "doclens": vectors.doclens_N,
            "truncated": np.int64(vectors.truncated),
            "skipped": np.array(vectors.skipped, np.int32),
            **_windows_to(vectors.windows_N3),
        }
        return write_whole(self.vectors_path(unit), _npz(arrays))

    def vectors(self, unit: int) -> UnitVectors | None:
        """A unit's kept vectors, or None where there are none."""
        path = self.vectors_path(unit)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return UnitVectors(
                arrays["vectors"],
                arrays["doclens"],
                int(arrays["truncated"]),
                tuple(arrays["skipped"].tolist()),
                _windows_in(arrays),
            )

    def write_chunk(self, unit: int, chunk: UnitChunk) -> FileEntry:
        """Commit a unit's compressed tokens."""
        arrays = {
            "codes": chunk.tokens.codes_T,
            "residuals": chunk.tokens.residuals_TB,
            "scales": chunk.tokens.scales_T,
            "contexts": chunk.tokens.contexts_NX,
            "doclens": chunk.doclens_N,
            "truncated": np.int64(chunk.truncated),
            "skipped": np.array(chunk.skipped, np.int32),
            **_windows_to(chunk.windows_N3),
        }
        return write_whole(self.chunk_path(unit), _npz(arrays))

    def chunk(self, unit: int) -> UnitChunk:
        """Read a unit's compressed tokens."""
        with np.load(self.chunk_path(unit), allow_pickle=False) as arrays:
            names = ("codes", "residuals", "scales", "contexts")
            tokens = Compressed(*(arrays[name] for name in names))
            return UnitChunk(
                tokens,
                arrays["doclens"],
                int(arrays["truncated"]),
                tuple(arrays["skipped"].tolist()),
                _windows_in(arrays),
            )

    def doclens(self, unit: int) -> I32:
        """Only the lengths of a compressed unit's passages, all windows together, int32 [N]."""
        with np.load(self.chunk_path(unit), allow_pickle=False) as arrays:
            doclens, windows_N3 = arrays["doclens"], _windows_in(arrays)
        if windows_N3 is not None:
            doclens = np.bincount(windows_N3[:, 0], weights=doclens).astype(np.int32)
        return cast(I32, doclens)


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> FileEntry:
    """Write a file that is either absent or whole, whatever else writes it at the same time.

    Returns:
        Its size and checksum, for the ledger.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        entry = entry_of(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return entry


def _windows_to(windows_N3: I32 | None) -> dict[str, I32]:
    return {} if windows_N3 is None else {"windows": windows_N3}


def _windows_in(arrays: Mapping[str, Any]) -> I32 | None:
    return cast(I32, arrays["windows"]) if "windows" in arrays else None


def _npz(arrays: Mapping[str, Any]) -> Callable[[IO[bytes]], None]:
    def write(file: IO[bytes]) -> None:
        np.savez(file, allow_pickle=False, **arrays)

    return write
