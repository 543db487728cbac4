"""The folder that an index is built in: one builder at a time, and nothing half-done left behind.

    with building(out, overwrite=False) as place:
        place.index, place.generation, place.staging

Everything that a build writes bears the id of its generation. If the block fails, whatever bears
it is removed, and the generation that was live stays live; the staging folder always goes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from colbert_core.errors import IndexExists, InvalidInput
from colbert_core.index import new_generation_id, remove_unpublished, take_lock
from colbert_core.index.manifest import CURRENT

STAGING = "staging"
_OWN_FOLDERS = {STAGING, "generations", "global", "shards", "tombstones"}


@dataclass(frozen=True, slots=True)
class BuildPlace:
    """Where a build writes: the index, the id of its generation, its staging folder."""

    index: Path
    generation: str
    staging: Path


@contextmanager
def building(out: str | os.PathLike[str], *, overwrite: bool) -> Iterator[BuildPlace]:
    """Hold an index folder for one build.

    Raises:
        IndexExists: there is an index, another build, or something else at this place.
        InvalidInput: the folder cannot be written.
    """
    index = Path(out).expanduser().absolute()
    check_place(index, overwrite=overwrite)
    created = _create(index)
    lock = take_lock(index)
    try:
        # The lock is ours, so what lies in staging belongs to builds that were killed.
        shutil.rmtree(index / STAGING, ignore_errors=True)
        generation = new_generation_id(index)
        place = BuildPlace(index, generation, index / STAGING / generation)
        place.staging.mkdir(parents=True)
        try:
            yield place
        except BaseException:
            remove_unpublished(index, place.generation)
            raise
        finally:
            shutil.rmtree(index / STAGING, ignore_errors=True)
    finally:
        _remove_empty([index / name for name in _OWN_FOLDERS])
        _remove_empty(reversed(created))
        os.close(lock)


def check_place(index: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, before any work.

    Raises:
        IndexExists: there is an index and `overwrite` is false, or something that is no index.
    """
    if (index / CURRENT).exists():
        if not overwrite:
            raise IndexExists(
                f"{index}: there is an index here already; choose another --out, or give "
                "--overwrite for a new generation that replaces it"
            )
    elif index.exists() and not index.is_dir():
        raise IndexExists(f"{index}: this is a file; choose another --out")
    elif index.is_dir():
        others = sorted(path.name for path in index.iterdir() if path.name not in _OWN_FOLDERS)
        if others:
            raise IndexExists(
                f"{index}: this folder is not an index and not empty (it holds {others[0]!r}); "
                "choose a new or empty folder for --out"
            )


def _create(index: Path) -> list[Path]:
    """Make the folder; gives the folders that were made, outermost first."""
    missing = [path for path in [index, *index.parents] if not path.exists()][::-1]
    try:
        index.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"{index}: the folder cannot be made: {error.strerror}; choose another --out"
        ) from error
    if not os.access(index, os.W_OK | os.X_OK):
        raise InvalidInput(f"{index}: the folder cannot be written; choose another --out")
    return missing


def _remove_empty(folders: Iterator[Path] | list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
