"""What a batch worker does for the training of a codec: its share of every round of k-means.

    staging/sample-3f9a01c2/000012.rows       int8 rows and their scales     (once)
    staging/sample-3f9a01c2/000012.codes-04   the codes of one round         (each round)

Shapes: S vectors of a unit, D dimensions, C centroids, M rows asked for.

A worker keeps nothing between calls: what a sampled unit is to k-means lies in files, and the page
cache holds those that its node works on. So any worker may take any units in any round, memory does
not grow with the sample, and a lost worker costs what it was busy with alone. Nothing here is
synced, for it does not outlive the run of the driver that asked for it.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

from colbert_core.codec.assign import Assigner
from colbert_core.codec.rows import Rows
from colbert_core.codec.sample import next_codes, no_sums
from colbert_core.codec.training import sample_rows
from colbert_core.errors import JobFailed
from colbert_core.text.projection import on_grid, second_moment
from colbert_core.types import F16, F32, F64, I32, I64
from workers.memory import release_freed_memory
from workers.units import Staging

BLOCK_BYTES = 4 * 2**20, 32 * 2**20  # at least, at most, of rows that are assigned at once
BLOCK_PER_CENTROIDS = 4  # so many times the table between them: enough for each group of centroids
SUMS_TIMEOUT_S = 120.0

Units = tuple[int, ...]
"""Indices of sampled units, ascending."""


@dataclass(frozen=True, slots=True)
class Space:
    """Where the vectors of a sample go: float32 [model's dim, D] and [D, D], or None."""

    projection: F32 | None
    rotation_DD: F32 | None


@dataclass(frozen=True, slots=True)
class Round:
    """One assignment: its number from 0, and what `Sample.assign` takes."""

    number: int
    centroids_CD: F32
    rank_C: I32 | None


@dataclass(frozen=True, slots=True)
class SumsRef:
    """Sums, int64 [C, D], in the object store of the worker that made them."""

    ref: Any


@dataclass(frozen=True, slots=True)
class Missing:
    """Sums that could not be fetched: their positions among those that were to be added."""

    positions: tuple[int, ...]


class SampleWorker:
    """The part of `EncoderWorker` that trains."""

    _staging: Staging

    def moment(self, units: Units, share: float, seed: int) -> F64:
        """The second moment of a random share of the vectors of some units, exactly."""
        chosen = [_share_of(self._kept(unit), share, [seed, unit]) for unit in units]
        moment_DD = sum(second_moment(on_grid(project(part, None))) for part in chosen)
        release_freed_memory()
        return cast(F64, moment_DD)

    def prepare(self, folder: str, units: Units, space: Space) -> tuple[int, ...]:
        """Write the rows of some units; how many each has."""
        files = _Files(self._staging, folder)
        counts = []
        for unit in units:
            vectors_SD = project(self._kept(unit), space.projection)
            rows = sample_rows(vectors_SD, space.rotation_DD)
            files.write_rows(unit, rows)
            counts.append(len(rows))
        release_freed_memory()
        return tuple(counts)

    def rows(self, folder: str, wanted: Sequence[tuple[int, I64]]) -> Rows:
        """Some rows, given by unit and position [M], in this order."""
        files = _Files(self._staging, folder)
        return Rows.gather([files.rows(unit)[which_M] for unit, which_M in wanted])

    def assign(self, folder: str, units: Units, task: Round) -> SumsRef:
        """Give the vectors of some units new codes, and sum the vectors of each code."""
        files = _Files(self._staging, folder)
        assigner = Assigner(task.centroids_CD)
        sums_CD = no_sums(task.centroids_CD)
        for block, rows, lengths in _blocks(files, units, _block_bytes(task.centroids_CD)):
            last_S = None
            if task.rank_C is not None:
                last_S = np.concatenate([files.codes(unit, task.number - 1) for unit in block])
            codes_S = next_codes(assigner, rows, last_S, task.rank_C)
            rows.add_to(sums_CD, codes_S)
            parts = np.split(codes_S, np.cumsum(lengths)[:-1])
            for unit, part_S in zip(block, parts, strict=True):
                files.write_codes(unit, task.number, part_S)
        found = SumsRef(ray.put(sums_CD))
        del sums_CD, assigner
        release_freed_memory()
        return found

    def add(self, parts: Sequence[SumsRef]) -> SumsRef | Missing:
        """Add sums that workers made, or say which of them are lost."""
        total_CD: I64 | None = None
        missing = []
        for position, part in enumerate(parts):
            try:
                sums_CD = ray.get(part.ref, timeout=SUMS_TIMEOUT_S)
            except (ObjectLostError, GetTimeoutError):
                missing.append(position)
                continue
            total_CD = sums_CD.copy() if total_CD is None else np.add(total_CD, sums_CD, total_CD)
        if missing:
            return Missing(tuple(missing))
        return SumsRef(ray.put(total_CD))

    def _kept(self, unit: int) -> F16:
        kept = self._staging.vectors(unit)
        if kept is None:
            raise JobFailed(
                f"{self._staging.vectors_path(unit)}: a worker wrote this file, but it is not "
                "here; the staging folder must be one that the driver and all workers share"
            )
        return kept.on_host()


def project(vectors_TD: Any, projection: F32 | None) -> F32:
    """Float16 [T, D] as the model gave them → float32 unit vectors as the codec takes them."""
    wide_TD: F32 = vectors_TD.astype(np.float32)
    if projection is not None:
        wide_TD = wide_TD @ projection
    norms_T = np.linalg.norm(wide_TD, axis=1, keepdims=True)
    return cast(F32, wide_TD / np.maximum(norms_T, np.float32(1e-12)))


def sample_folder(staging: Staging, name: str) -> Path:
    """Where the files of one training lie."""
    return staging.folder / f"sample-{name}"


class _Files:
    """The files of one training."""

    def __init__(self, staging: Staging, name: str) -> None:
        self._folder = sample_folder(staging, name)

    def rows(self, unit: int) -> Rows:
        with self._path(unit, "rows").open("rb") as file:
            return Rows(np.load(file), np.load(file))

    def write_rows(self, unit: int, rows: Rows) -> None:
        def write(file: IO[bytes]) -> None:
            np.save(file, rows.values_TD)
            np.save(file, rows.scales_T)

        _rename_into(self._path(unit, "rows"), write)

    def codes(self, unit: int, number: int) -> I32:
        with self._path(unit, f"codes-{number:02d}").open("rb") as file:
            return cast(I32, np.load(file))

    def write_codes(self, unit: int, number: int, codes_S: I32) -> None:
        """Write the codes of a round. Those of the last round stay, for it may be done again."""
        path = self._path(unit, f"codes-{number:02d}")
        _rename_into(path, lambda file: np.save(file, codes_S))
        self._path(unit, f"codes-{number - 2:02d}").unlink(missing_ok=True)

    def _path(self, unit: int, kind: str) -> Path:
        return self._folder / f"{unit:06d}.{kind}"


def _rename_into(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with temporary.open("wb") as file:
        write(file)
    temporary.replace(path)


def _block_bytes(centroids_CD: F32) -> int:
    least, most = BLOCK_BYTES
    return min(max(least, BLOCK_PER_CENTROIDS * centroids_CD.size), most)


def _blocks(files: _Files, units: Units, size: int) -> Iterator[tuple[list[int], Rows, list[int]]]:
    """Units that together have `size` bytes of rows, their rows, and how many each has."""
    block: list[int] = []
    parts: list[Rows] = []
    for unit in units:
        block.append(unit)
        parts.append(files.rows(unit))
        if unit == units[-1] or sum(part.values_TD.nbytes for part in parts) >= size:
            lengths = [len(part) for part in parts]
            yield block, Rows.gather(parts), lengths  # which empties `parts`
            block = []


def _share_of(vectors_TD: F16, share: float, seed: list[int]) -> F16:
    if share >= 1:
        return vectors_TD
    return vectors_TD[np.random.default_rng(seed).random(len(vectors_TD)) < share]
