"""Readers of the indexes of other engines; `colbert_core/import_index.py` writes what they read."""

from __future__ import annotations

from pathlib import Path

from colbert_core.errors import IndexMissing, InvalidInput
from colbert_core.index.importers.plaid import FAST, NEXT, is_plaid, open_plaid
from colbert_core.index.importers.source import Source
from colbert_core.index.importers.stanford import NAME as STANFORD
from colbert_core.index.importers.stanford import is_stanford, open_stanford

FORMATS = (STANFORD, FAST, NEXT)

__all__ = ["FORMATS", "Source", "open_source"]


def open_source(path: Path, format: str = "auto") -> Source:
    """Open the index of another engine and check that its parts fit.

    Args:
        path: its folder.
        format: one of `FORMATS`, or "auto" to look at the files.

    Raises:
        IndexMissing: there is no such folder, or no known index in it.
        IndexCorrupt: a file is missing or damaged.
        InvalidInput: it cannot be imported, or is of another format than was said.
    """
    if format not in ("auto", *FORMATS):
        raise InvalidInput(f"format {format!r} is unknown; choose auto, {', '.join(FORMATS)}")
    if not path.is_dir():
        raise IndexMissing(f"{path}: there is no such folder; give the folder of an index")
    if format == STANFORD or (format == "auto" and is_stanford(path)):
        source = open_stanford(path)
    elif format in (FAST, NEXT) or is_plaid(path):
        source = open_plaid(path)
        if format == NEXT and source.format == FAST:
            source.notes.append("its metadata are fast-plaid's; the layout is the same")
    else:
        raise IndexMissing(
            f"{path}: no index of {', '.join(FORMATS)} is known by its files (metadata.json beside "
            "centroids.pt or centroids.npy); give its folder"
        )
    source.check()
    return source
