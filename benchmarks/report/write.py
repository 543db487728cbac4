"""Results on disk: `<stem>.json` and `<stem>.md`, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMA = 2
"""Of the JSON documents. It changes when a key changes its name or its meaning."""


def write(folder: Path, stem: str, document: dict[str, Any], text: str) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = json.dumps(document, indent=1) + "\n"
    (folder / f"{stem}.json").write_text(figures, encoding="utf-8")
    (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    print(f"written: {folder / stem}.json and .md")


def conditions(about: dict[str, Any]) -> str:
    """The machine and its load, as one paragraph."""
    computer = about["machine"]
    return (
        f"{computer['processor']}, {computer['cores']} cores ({', '.join(computer['flags'])}), "
        f"{computer['memory_gib']} GiB, {computer['system']}. Load average "
        f"{about['load_before']} at the start and {about['load_after']} at the end."
    )
