"""What a job in several steps was asked to do, written once beside its outputs.

The same command goes on; another is refused, and told what differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from colbert_core.errors import IndexExists, InvalidInput

RECORD = "settings.json"
Asked = Mapping[str, object]
"""Settings by name, as plain values that JSON can hold."""


def take_folder(folder: Path, asked: Asked) -> None:
    """Take a folder for a job, or find that it is this job's.

    Raises:
        IndexExists: it is another job's, or holds something else; nothing was changed.
        InvalidInput: it cannot be written.
    """
    if is_recorded(folder, asked):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if others := sorted(one.name for one in folder.iterdir() if not one.name.startswith(".")):
            raise IndexExists(
                f"{folder}: this folder is not empty (it holds {others[0]!r}); choose a new or "
                "empty folder for --out"
            )
        record(folder, asked)
    except OSError as error:
        raise InvalidInput(
            f"{folder}: it cannot be written ({error.strerror}); choose another --out"
        ) from error


def is_recorded(folder: Path, asked: Asked) -> bool:
    """Whether a folder has a record, which is then this one.

    Raises:
        IndexExists: it is another.
    """
    path = folder / RECORD
    if not path.is_file():
        return False
    if found := differences(json.loads(path.read_text(encoding="utf-8")), asked):
        raise IndexExists(
            f"{folder}: what is here was made with other settings: {'; '.join(found)}. Run its "
            "command again to go on with it, or choose another --out"
        )
    return True


def record(folder: Path, asked: Asked) -> None:
    """Write the record of a folder."""
    write_whole(folder / RECORD, json.dumps(asked, indent=1, ensure_ascii=False) + "\n")


def differences(before: Asked, now: Asked) -> list[str]:
    """What differs between two records, for people to read."""
    now = json.loads(json.dumps(now))  # as it comes back from the file
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{name.replace('_', ' ')} was {_shown(before.get(name))}, now {_shown(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def write_whole(path: Path, text: str) -> None:
    """Write a file under a temporary name, sync it, and rename it: whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _shown(value: object) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:60]}…"
