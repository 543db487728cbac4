"""Tombstones: the passages of a shard that were deleted, ascending, as one write-once file.

    tombstones/<generation>-<number>.npy    uint32 [M]

A shard's files never change. What a generation lacks of it is in this file, which replaces that of
the generation before.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from colbert_core.errors import IndexCorrupt
from colbert_core.index.files import ArrayWriter, map_array, sync_folder
from colbert_core.index.manifest import Tombstones
from colbert_core.types import I64, AnyArray

FOLDER = "tombstones"


def write_tombstones(
    index: Path, name: str, pids_M: I64, tokens: int, continued: int = 0
) -> Tombstones:
    """Write the deleted passages of a shard, ascending.

    Args:
        tokens: that they have.
        continued: how many of them are later windows of a document.
    """
    folder = index / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.npy"
    temporary = folder / f".{name}.tmp"
    try:
        with ArrayWriter(temporary, np.uint32) as writer:
            writer.append(pids_M)
        temporary.replace(path)
        sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)
    return Tombstones(f"{FOLDER}/{path.name}", len(pids_M), tokens, continued)


def read_tombstones(index: Path, entry: Tombstones, passages: int) -> AnyArray:
    """The deleted passages of a shard of so many, uint32 [M], ascending.

    Raises:
        IndexCorrupt: the file is missing, or is not that.
    """
    path = index / entry.file
    pids_M = map_array(path)
    fits = pids_M.dtype == np.uint32 and pids_M.shape == (entry.passages,)
    if not fits or (np.diff(pids_M.astype(np.int64)) < 1).any():
        raise IndexCorrupt(
            f"{path}: these are not {entry.passages} ascending passages as 32-bit integers"
        )
    if len(pids_M) and int(pids_M[-1]) >= passages:
        raise IndexCorrupt(f"{path}: passage {int(pids_M[-1])} is not one of {passages}")
    return pids_M
