"""What a writer leaves behind that did not come to publishing: found by the generation's id.

Everything that a writer makes bears the id of its generation, so it can be removed by name.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from colbert_core.errors import IndexMissing
from colbert_core.index.manifest import manifest_path, read_pointer

WRITTEN = ("shards", "global", "tombstones")
"""Folders that hold what generations consist of."""


def remove_unpublished(index: Path, generation: str) -> None:
    """Remove what a failed writer wrote, unless its generation had become live already."""
    with suppress(IndexMissing):
        if read_pointer(index)[0] == generation:
            return
    manifest_path(index, generation).unlink(missing_ok=True)
    for folder in WRITTEN:
        for path in (index / folder).glob(f"*{generation}*"):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
