"""The folder that an index is built in: one builder at a time; an unfinished job is kept whole.

    with building(out, asked, overwrite=False, restart=False) as place:
        place.index, place.staging, place.ledger

The job's files lie in `INDEX/staging/`, with the ledger that says which of them count. A job that
is killed, interrupted or out of luck stays there, and the same command goes on with it; a job that
was refused before anything was encoded, or that is done, leaves nothing there. Readers see none of
it: the generation that was live stays live until `CURRENT` is replaced.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.corpus_files import digest
from cluster.ledger import Asked, CorpusFile, Done
from cluster.ledger_file import Ledger
from cluster.resuming import differences
from colbert_core.errors import (
    IndexCorrupt,
    IndexExists,
    IndexMissing,
    InvalidInput,
    JobFailed,
    ModelError,
)
from colbert_core.index import read_current, remove_unpublished, take_lock
from colbert_core.index.manifest import CURRENT, read_generation
from colbert_core.storage import location

STAGING = "staging"
JOB = "job"
_OWN_FOLDERS = {STAGING, "generations", "global", "shards", "tombstones"}
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
_REFUSALS = (InvalidInput, ModelError)  # the command must change before it can work

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BuildPlace:
    """Where a job writes: the index, its staging folder, and the ledger of what is committed.

    Attributes:
        resumed: whether an unfinished job was found here.
        published: its generation, where all but the tidying up was done.
    """

    index: Path
    staging: Path
    ledger: Ledger
    resumed: bool
    published: str | None


@contextmanager
def building(
    out: str | os.PathLike[str],
    asked: Asked,
    *,
    overwrite: bool,
    restart: bool = False,
    note: Note | None = None,
) -> Iterator[BuildPlace]:
    """Hold an index folder for one job, new or unfinished.

    Args:
        asked: what the job is; an unfinished one must be the same.
        overwrite: whether there may be an index already.
        restart: whether an unfinished job is thrown away.
        note: takes lines that a person should see.

    Raises:
        IndexExists: there is an index, another build, another unfinished job, or something else at
            this place.
        InvalidInput: the folder cannot be written.
        JobFailed: the disk is full, or the folder cannot be written any more.
    """
    index = Path(out).expanduser().absolute()
    check_place(index, overwrite=overwrite)
    created = _create(index)
    lock = take_lock(index)
    try:
        place = _take(index, asked, overwrite=overwrite, restart=restart)
        try:
            yield place
        except BaseException as error:
            _keep_or_remove(place, error, note)
            raise
        finally:
            place.ledger.close()
        shutil.rmtree(index / STAGING, ignore_errors=True)
    except OSError as error:
        # numpy's "n requested and m written" of a full disk has no number; time-outs are OSErrors.
        if error.errno not in _UNWRITABLE and not (type(error) is OSError and error.errno is None):
            raise
        raise JobFailed(
            f"{error.filename or index}: it cannot be written: {error.strerror or error}; free "
            "some space, or see to the folder, and run the same command again"
        ) from error
    finally:
        for folder in [*(index / name for name in _OWN_FOLDERS), *reversed(created)]:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        os.close(lock)


def check_place(index: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, before any work.

    Raises:
        IndexExists: there is an index and `overwrite` is false, or something that is no index.
    """
    if (index / CURRENT).exists():
        if not overwrite and _published(index, _unfinished(index).done) is None:
            raise _taken(index)
    elif index.exists() and not index.is_dir():
        raise IndexExists(f"{index}: this is a file; choose another --out")
    elif index.is_dir():
        others = sorted(path.name for path in index.iterdir() if path.name not in _OWN_FOLDERS)
        if others:
            raise IndexExists(
                f"{index}: this folder is not an index and not empty (it holds {others[0]!r}); "
                "choose a new or empty folder for --out"
            )


def _taken(index: Path) -> IndexExists:
    return IndexExists(
        f"{index}: there is an index here already; choose another --out, or give "
        "--overwrite for a new generation that replaces it"
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


def _unfinished(index: Path) -> Ledger:
    return Ledger.read(index, index / STAGING / JOB)


def _take(index: Path, asked: Asked, *, overwrite: bool, restart: bool) -> BuildPlace:
    """The unfinished job that lies here, if it is the one that is asked for; else a new one."""
    ledger = _unfinished(index)
    staged = ledger.done.staged is not None  # else nothing was done that could be gone on with
    published = _published(index, ledger.done)
    found = _differences(ledger.done, asked) if staged else []
    if staged and not found and not restart:
        return BuildPlace(index, index / STAGING / JOB, ledger, True, published)
    if published is not None and not overwrite:
        raise _taken(index)
    if published is None and found and not restart:
        raise IndexExists(
            f"{index}: an unfinished build is here ({progress_of(ledger.done)}), and it was asked "
            f"for something else: {'; '.join(found)}. Run its command again to go on with it, give "
            "--restart to throw it away and begin anew, or choose another --out"
        )
    if published is None:
        _remove_unpublished(index, ledger.done)
    shutil.rmtree(index / STAGING, ignore_errors=True)
    staging = index / STAGING / JOB
    staging.mkdir(parents=True)
    return BuildPlace(index, staging, Ledger.read(index, staging), False, None)


def _differences(done: Done, asked: Asked) -> list[str]:
    before, staged = done.asked, done.staged
    if before is None or staged is None:
        return []

    def same_content(number: int, file: CorpusFile) -> bool:
        return digest(location(file.path)) == staged.digests[number]

    return differences(before, asked, same_content)


def _published(index: Path, done: Done) -> str | None:
    """The generation of a job, if it is the live one or one that the live one came from."""
    if done.started is None:
        return None
    with suppress(IndexMissing, IndexCorrupt):
        manifest = read_current(index)
        while manifest.generation != done.started.generation:
            if manifest.parent is None:
                return None
            manifest = read_generation(index, manifest.parent)
        return manifest.generation
    return None


def _keep_or_remove(place: BuildPlace, error: BaseException, note: Note | None) -> None:
    """After a failure: keep what the same command can go on with, remove what no command can."""
    done = place.ledger.done
    encoded = bool(done.embedded or done.compressed)
    if _published(place.index, done) is not None:
        shutil.rmtree(place.index / STAGING, ignore_errors=True)
    elif done.staged is None or (isinstance(error, _REFUSALS) and not encoded):
        _remove_unpublished(place.index, done)
        shutil.rmtree(place.index / STAGING, ignore_errors=True)
    elif not isinstance(error, IndexExists):
        message = (
            f"{progress_of(done)}, and kept in {place.staging}: run the same command again to go "
            "on, or with --restart to begin anew"
        )
        error.add_note(message)
        if note is not None:
            note(message)


def progress_of(done: Done) -> str:
    """How far a job has come, for people to read."""
    if done.shards:
        return f"all units are done, and {len(done.shards)} of the shards"
    if done.trained is not None:
        return f"the codec and {len(done.compressed):,} units are done"
    return f"the corpus is read and {len(done.embedded):,} sampled units are done"


def _remove_unpublished(index: Path, done: Done) -> None:
    """Remove what a job wrote beside its staging folder."""
    if done.started is not None:
        remove_unpublished(index, done.started.generation)
