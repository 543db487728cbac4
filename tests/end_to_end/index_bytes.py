"""What an index consists of, to the byte, for comparing one with another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from colbert_core.index import read_current, verify


def contents(index: Path) -> dict[str, Any]:
    """SHA-256 of every file, and the manifest, but for when it was made and what it replaced.

    The index must be whole, and hold nothing else.
    """
    manifest = json.loads(verify(index).to_json())
    generation = read_current(index).generation
    found: dict[str, Any] = {"manifest": {**manifest, "created": None}}
    expected = {"CURRENT", f"generations/{generation}.json"}
    for path in sorted(index.rglob("*")):
        name = path.relative_to(index).as_posix()
        if path.is_file() and name not in expected:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(found) == {"manifest", *manifest["files"]}
    return found
