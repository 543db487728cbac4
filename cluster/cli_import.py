"""`tartan index import|export`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cluster.index_folder import check_place
from cluster.plan import shard_count
from colbert_core.export import export_index
from colbert_core.importing import ImportReport, import_index
from colbert_core.index.importers import open_source
from colbert_core.types import AnyArray


def import_command(
    source: Path, out: Path, *, format: str, shards: int | None, overwrite: bool, as_json: bool,
    **columns: Any,
) -> None:  # fmt: skip
    """Import an index, then say what was found in it."""
    opened = open_source(source, format)
    count = _shards(shards, opened.all_doclens, opened.dim * opened.bits // 8 + 4)
    place = out.expanduser().absolute()
    check_place(place, overwrite=overwrite)
    report = import_index(
        source,
        place,
        format=format,
        shards=count,
        overwrite=overwrite,
        on_progress=None if as_json else _progress(),
        **columns,
    )
    print(json.dumps(report.to_dict()) if as_json else _described(report, out))


def _shards(requested: int | None, doclens_N: AnyArray, token_bytes: int) -> int:
    return shard_count(
        requested,
        passages=int((doclens_N > 0).sum()),
        tokens=int(doclens_N.sum()),
        token_bytes=token_bytes,
    )


def _described(report: ImportReport, out: Path) -> str:
    lines = [
        f"{report.passages:,} passages, {report.tokens:,} tokens of {report.dim} dimensions at "
        f"{report.bits} bits, {report.centroids:,} centroids, from {report.format}: {out}",
    ]
    if report.lists_compared and not report.lists_differing:
        lines.append(f"all {report.lists_compared:,} posting lists follow from the codes")
    lines.append(
        f"decoded vectors have lengths of {report.norm_min:.3f} to {report.norm_max:.3f}, "
        f"{report.norm_mean:.3f} on average"
    )
    lines += [f"note: {note}" for note in report.notes]
    if report.model:
        lines.append(f'next: tartan search "your question" --index {out}')
    return "\n".join(lines)


def _progress() -> Any:
    """A line that is written over, on a terminal."""
    if not sys.stderr.isatty():
        return None

    def show(stage: str, done: int, total: int) -> None:
        end = "\n" if done >= total else "\r"
        print(f"{stage}: {done:,} of {total:,}", end=end, file=sys.stderr, flush=True)

    return show


def export_command(index: Path, out: Path, *, dtype: str, as_json: bool) -> None:
    """Export an index, then say what was written."""
    show = None if as_json else _progress()
    about = export_index(
        index,
        out,
        dtype=dtype,
        on_progress=(lambda done, total: show("export", done, total)) if show else None,
    )
    if as_json:
        print(json.dumps(about.to_dict()))
        return
    print(
        f"{about.tokens:,} vectors of {about.dim} dimensions ({about.dtype}) of {about.passages:,} "
        f"passages: {out}; its README.md says how to read them"
    )
