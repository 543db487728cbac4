"""Building an index into a bucket: built in a local staging folder, then pushed whole.

    STAGING/<of the URI>/index/          the index as it is built, with its own staging inside
    STAGING/<of the URI>/request.json    what was asked for, so that only the same goes on

The folder follows from the URI, so the same command finds it again: a build that ended goes on as
far as a local one does, and an upload that ended sends what is missing. It goes once the generation
is live. Workers write there too: on several machines it must be a folder that all of them see.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.build_report import BuildReport, make_report
from cluster.build_settings import BuildSettings
from cluster.progress import Progress
from colbert_core.errors import IndexCorrupt, IndexExists, IndexMissing, InvalidInput
from colbert_core.index import (
    Manifest,
    check_remote_place,
    live_generation,
    number_after,
    push,
    read_current,
)
from colbert_core.index.cache import cache_folder
from colbert_core.index.files import write_file
from colbert_core.index.manifest import CURRENT
from colbert_core.storage import Location, RemotePath

Build = Callable[[Path], BuildReport]
"""Builds the index in a local folder."""


def staging_folder(out: RemotePath, staging: str | os.PathLike[str] | None) -> Path:
    """Where an index for this URI is built: below `staging`, or below the cache."""
    home = Path(staging).expanduser().absolute() if staging else cache_folder() / "staging"
    return home / f"{out.key.replace('/', '-')[-40:]}-{_digest(str(out))}"


def build_to_bucket(
    out: RemotePath,
    request: Mapping[str, Any],
    build: Build,
    *,
    overwrite: bool,
    restart: bool = False,
    staging: str | os.PathLike[str] | None,
    progress: Progress,
) -> BuildReport:
    """Build an index in the staging folder of a URI and publish it there.

    Args:
        request: what is built, as JSON values; another request than an unfinished one is refused.
        build: builds into the folder that it is given.
        restart: whether an unfinished build for this URI is thrown away.

    Raises:
        IndexExists: the place is taken, or another build for it is running here or was left
            unfinished with other settings.
        StorageError, Unavailable: the bucket refuses, or does not answer.
        and what `build` raises. Whatever is raised, what was live stays live.
    """
    work = staging_folder(out, staging)
    index = work / "index"
    built = None if restart else _built(index)
    if built is None or built.generation != live_generation(out):
        check_remote_place(out, overwrite=overwrite)
    with _held(work, out):
        if restart:
            shutil.rmtree(index, ignore_errors=True)
        _check_request(work, index, request)
        progress.note(f"staging in {work}; the same command goes on from there if it is stopped")
        if built is None:
            number_after(index, out)
            report = build(index)
            built = read_current(index)
        else:
            report = make_report(
                built,
                index=str(index),
                model=str(request["settings"]["model"]),
                empty=int(built.extras.get("empty", 0)),
                skipped=tuple(built.extras.get("skipped", ())),
                workers=0,
                seconds={"total": 0.0},
            )
        upload_s = _upload(index, built, out, overwrite, progress)
        shutil.rmtree(work, ignore_errors=True)
    seconds = dict(report.seconds) | {"upload": round(upload_s, 3)}
    seconds["total"] = round(seconds["total"] + upload_s, 3)
    return dataclasses.replace(report, index=str(out), seconds=seconds)


def _upload(
    index: Path, manifest: Manifest, out: RemotePath, overwrite: bool, progress: Progress
) -> float:
    began = time.monotonic()
    total = sum(entry.size_bytes for entry in manifest.files.values())
    progress.start("upload", total, "bytes")
    push(index, out, overwrite=overwrite, on_sent=progress.advance)
    progress.finish()
    return time.monotonic() - began


def request_of(files: Sequence[Location], settings: BuildSettings) -> dict[str, Any]:
    """What makes one build another: the corpus files as they are, and the settings."""
    about = [path.stat() for path in files]
    return {
        "corpus": [
            [str(path.absolute()), at.st_size, at.st_mtime_ns]
            for path, at in zip(files, about, strict=True)
        ],
        "settings": dataclasses.asdict(settings),
    }


@contextmanager
def _held(work: Path, out: RemotePath) -> Iterator[None]:
    """Hold a staging folder for one process."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise InvalidInput(
            f"{work}: an index for {out} cannot be staged here: {error.strerror}; give another "
            "folder with --staging"
        ) from error
    try:
        _lock(descriptor, work, out)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, work: Path, out: RemotePath) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise IndexExists(
            f"{work}: another build for {out} is running here; wait for its end"
        ) from error


def _check_request(work: Path, index: Path, request: Mapping[str, Any]) -> None:
    """Refuse to go on with what another command began; where nothing was kept, begin anew."""
    path = work / "request.json"
    data = json.dumps(request, sort_keys=True, indent=1)
    begun = any((index / name).exists() for name in ("staging", "global", "shards", CURRENT))
    if not begun or not path.exists():
        shutil.rmtree(index, ignore_errors=True)
        write_file(path, data.encode())
        return
    old, new = json.loads(path.read_bytes()), json.loads(data)
    if old != new:
        differing = sorted(
            key
            for part in ("settings", "corpus")
            for key in _differences(part, old.get(part), new.get(part))
        )
        raise IndexExists(
            f"{work}: an unfinished build lies here, with other arguments ({', '.join(differing)} "
            "differ); give the same ones to go on with it, or --restart to begin anew"
        )


def _differences(part: str, old: Any, new: Any) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [key for key in new if old.get(key) != new[key]]
    return [part] if old != new else []


def _built(index: Path) -> Manifest | None:
    """What was built here already, and perhaps not pushed."""
    try:
        return read_current(index)
    except (IndexMissing, IndexCorrupt):
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
