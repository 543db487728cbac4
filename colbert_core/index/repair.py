"""Making an index whole again, where what is damaged follows from what is not.

A file is replaced only by bytes whose size and SHA-256 are those that the manifest lists, under a
temporary name and then renamed: whatever happens, nothing gets worse. `CURRENT` is replaced only
with consent, by a generation of which every byte was read.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from colbert_core.errors import IndexCorrupt, IndexMissing, TartanError
from colbert_core.index.derive import derive, follows_from
from colbert_core.index.files import entry_of, sync_folder, write_file
from colbert_core.index.manifest import CURRENT, Manifest, read_current, read_generation
from colbert_core.index.verify import Problem, Report, check_index

OnFile = Callable[[str], None]


@dataclass(frozen=True)
class Lost:
    """A file that cannot be made again, and why."""

    file: str
    why: str


@dataclass(frozen=True)
class Repair:
    """What was done, and what is left.

    Attributes:
        generation: the live one, after the repair; "" where there is none.
        repaired: files that are whole again, `CURRENT` among them.
        lost: files that are damaged still.
        whole: other generations of which every byte is right, newest first; looked for only where
            something is lost.
        ok: whether the live generation is whole now.
    """

    generation: str
    repaired: tuple[str, ...]
    lost: tuple[Lost, ...]
    whole: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return bool(self.generation) and not self.lost

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"ok": self.ok, **asdict(self)}


def repair(path: str | Path, *, set_current: bool = False, on_file: OnFile | None = None) -> Repair:
    """Repair the live generation in place.

    Args:
        path: folder of the index.
        set_current: consent to pointing `CURRENT` at the newest generation that is whole, where it
            is damaged, names none, or names one that cannot be repaired.
        on_file: called with the name of each file before it is read.

    Raises:
        IndexMissing: there is no index here.
    """
    index = Path(path)
    if not (index / "generations").is_dir():
        raise IndexMissing(f"{index}: there is no index here (no generations); nothing to repair")
    try:
        manifest = read_current(index)
    except (IndexMissing, IndexCorrupt) as error:
        unreadable = (Lost(CURRENT, str(error)),)
        return _fall_back(index, "", (), unreadable, set_current, on_file)
    report = check_index(index, on_file=on_file, manifest=manifest)
    repaired, lost = _mend(index, manifest, report)
    if repaired and not lost:  # what was hidden by the damage may show now
        again = check_index(index, manifest=manifest)
        lost = tuple(Lost(p.file, p.what) for p in again.problems)
    if lost:
        return _fall_back(index, manifest.generation, repaired, lost, set_current, on_file)
    return Repair(manifest.generation, repaired, (), ())


def _mend(
    index: Path, manifest: Manifest, report: Report
) -> tuple[tuple[str, ...], tuple[Lost, ...]]:
    """Make again what can be, those first that others follow from."""
    damaged = {problem.file: problem for problem in report.problems}
    repaired: list[str] = []
    lost: dict[str, Lost] = {}
    while waiting := [name for name in damaged if name not in lost]:
        ready = [name for name in waiting if _ready(manifest, name, set(damaged))]
        if not ready:
            for name in waiting:
                lost[name] = Lost(name, _why(manifest, damaged[name], set(damaged)))
            break
        for name in ready:
            try:
                _make(index, manifest, name)
            except (TartanError, ValueError, OSError) as error:
                lost[name] = Lost(name, f"{damaged[name].what}; making it again failed: {error}")
            else:
                repaired.append(name)
                del damaged[name]
    return tuple(repaired), tuple(lost.values())


def _ready(manifest: Manifest, name: str, damaged: set[str]) -> bool:
    sources = follows_from(manifest, name)
    return sources is not None and not damaged.intersection(sources)


def _why(manifest: Manifest, problem: Problem, damaged: set[str]) -> str:
    sources = follows_from(manifest, problem.file)
    if sources is None:
        return f"{problem.what}; it exists once and follows from nothing else"
    missing = ", ".join(sorted(damaged.intersection(sources)))
    return f"{problem.what}; it follows from {missing}, which is damaged too"


def _make(index: Path, manifest: Manifest, name: str) -> None:
    """Put a file in its place if it came out as the manifest lists it.

    Raises:
        ValueError: it did not.
    """
    target = index / name
    target.parent.mkdir(parents=True, exist_ok=True)
    # beside the index's folders, so that renaming stays inside one file system
    with tempfile.TemporaryDirectory(prefix=".repair-", dir=index) as folder:
        made = derive(index, manifest, name, Path(folder))
        if entry_of(made) != manifest.files[name]:
            raise ValueError("what follows from the other files is not what the manifest lists")
        with made.open("rb") as file:
            os.fsync(file.fileno())
        made.replace(target)
        sync_folder(target.parent)


def _fall_back(
    index: Path,
    generation: str,
    repaired: tuple[str, ...],
    lost: tuple[Lost, ...],
    set_current: bool,
    on_file: OnFile | None,
) -> Repair:
    """Look for whole generations, and with consent make the newest the live one."""
    whole = _whole_generations(index, generation, on_file)
    if not whole or not set_current:
        return Repair(generation, repaired, lost, tuple(whole))
    newest = whole[0]
    data = (index / "generations" / f"{newest}.json").read_bytes()
    pointer = {"generation": newest, "manifest_sha256": hashlib.sha256(data).hexdigest()}
    write_file(index / CURRENT, (json.dumps(pointer) + "\n").encode())
    return Repair(newest, (*repaired, CURRENT), (), tuple(whole[1:]))


def _whole_generations(index: Path, but: str, on_file: OnFile | None) -> list[str]:
    """Generations without a problem, newest first."""
    found = []
    for path in sorted((index / "generations").glob("*.json"), reverse=True):
        if path.stem == but:
            continue
        try:
            manifest = read_generation(index, path.stem)
        except (IndexMissing, IndexCorrupt):
            continue
        if manifest.generation != path.stem:
            continue
        if not check_index(index, manifest=manifest, on_file=on_file).problems:
            found.append(path.stem)
    return found
