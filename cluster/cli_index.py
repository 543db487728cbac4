"""`tartan index build|inspect|verify`."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.progress import fetching, progress_for
from colbert_core.errors import IndexCorrupt
from colbert_core.index import describe, fetched_afresh, read_current, verify
from colbert_core.storage import Location, RemotePath


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
            "--doc-maxlen keeps more of them"
        )
    print(f'next: tartan search "your question" --index {out}   or   tartan serve {out}')


def inspect(index: Location, *, as_json: bool) -> None:
    """Print what an index holds."""
    about = describe(read_current(index))
    if as_json:
        print(json.dumps(about))
        return
    console = Console()
    sizes, presets = about.pop("bytes"), about.pop("presets")
    facts = Table(show_header=False, box=None)
    for name, value in about.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        facts.add_row(name.replace("_", " "), shown)
    console.print(facts)
    table = Table("component", "bytes", "share", box=None)
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{size:,}", f"{size / about['bytes_total']:.1%}")
    console.print(table)
    if presets:
        measured = Table(*presets[0], box=None)
        for row in presets:
            measured.add_row(*(f"{value:,}" for value in row.values()))
        console.print("\nwhat recall takes on this index, as measured when it was built:")
        console.print(measured)


def verify_index(index: Location, *, as_json: bool) -> None:
    """Check an index; a damaged one raises IndexCorrupt, whose exit code is 1."""
    quiet = as_json or not sys.stderr.isatty()
    on_file = None if quiet else lambda name: print(f"checking {name}", file=sys.stderr)
    if isinstance(index, RemotePath):
        with fetching() as on_fetch, fetched_afresh(index, on_fetch) as local:
            try:
                manifest = verify(local, on_file)
            except IndexCorrupt as error:  # it names the copy
                raise IndexCorrupt(str(error).replace(str(local), str(index))) from error
    else:
        manifest = verify(index, on_file)
    if as_json:
        print(json.dumps({"ok": True, "generation": manifest.generation}))
        return
    size = sum(entry.size_bytes for entry in manifest.files.values())
    print(
        f"{index}: whole. {len(manifest.files)} files, {size:,} bytes, {manifest.passages:,} "
        f"passages, generation {manifest.generation}"
    )
