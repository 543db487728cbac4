"""`tartan index build|inspect`."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.progress import progress_for
from colbert_core.index import describe, read_current
from colbert_core.storage import Location


def build(corpus: list[str], out: Location, *, as_json: bool, **settings: Any) -> None:
    """Build an index, then say what was built."""
    from cluster.index_job import build_index

    report = build_index(corpus, str(out), progress=progress_for(), **settings)
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    print(
        f"{report.passages:,} passages, {report.tokens:,} tokens, {report.shards} shards in "
        f"{report.seconds['total']:.0f} s: {out} ({report.bytes_total / 1e6:,.1f} MB, "
        f"{report.bytes_per_token:.1f} bytes a token without texts)"
    )
    if report.truncated:
        share = report.truncated / report.passages
        print(
            f"{report.truncated:,} passages ({share:.1%}) were cut to the model's length; "
            "--doc-maxlen keeps more of them, --long-documents split all"
        )
    if report.documents < report.passages:
        print(
            f"{report.documents:,} documents: those that are longer than a passage were split into "
            "windows, and are found by the best of them"
        )
    if report.skipped:
        print(f"{len(report.skipped):,} passages were left out, for the model fails on them:")
        print("\n".join(f"  {one}" for one in report.skipped))
    print(f'next: tartan search "your question" --index {out}   or   tartan serve {out}')


def inspect(index: Location, *, as_json: bool) -> None:
    """Print what an index holds."""
    about = describe(read_current(index))
    if as_json:
        print(json.dumps(about))
        return
    console = Console()
    sizes, presets, fields = (about.pop(name) for name in ("bytes", "presets", "fields"))
    facts = Table(show_header=False, box=None)
    for name, value in about.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        facts.add_row(name.replace("_", " "), shown)
    console.print(facts)
    table = Table("component", "bytes", "share", box=None)
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{size:,}", f"{size / about['bytes_total']:.1%}")
    console.print(table)
    if fields:
        console.print("\nwhat `--filter` can ask for, beside _id (string):")
        types = Table(show_header=False, box=None)
        for name, kind in fields.items():
            types.add_row(escape(name), escape(kind))
        console.print(types)
    if presets:
        measured = Table(*presets[0], box=None)
        for row in presets:
            measured.add_row(*(f"{value:,}" for value in row.values()))
        console.print("\nwhat recall takes on this index, as measured on it:")
        console.print(measured)
