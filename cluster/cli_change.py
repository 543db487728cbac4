"""`tartan index add|delete|compact|gc|rollback|generations`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli_options import IndexPath, Json

MUCH_DELETED = 0.2
"""Share of what is stored from which compaction is suggested."""


def register(app: typer.Typer) -> None:
    """Add the commands to `tartan index`."""
    for command in (add, delete, compact, rollback, generations, gc):
        app.command(command.__name__)(command)


def add(
    index: IndexPath,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILES...", help="Files, folders or globs, as `build` takes them."),
    ],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace passages whose ids are in the index already."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Where the index's model is now, if it was moved."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="By default one per GPU, else per CPU.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add documents to an index, encoded with its own model and compressed with its own codec.

    Publishes a new generation; whoever has the index open goes on with the old one, and a server
    serves the new one when it is started again. An id that is in the index already is refused
    before anything is encoded, unless --replace is given.

    Afterwards it prints the drift: how much longer the residuals of added tokens are than those
    of the tokens that the index was built of. Past 1.5 build the index anew.

    Example: `tartan index add notes.tartan new.jsonl --replace`
    """
    from cluster.add_job import add_to_index
    from cluster.progress import progress_for

    report = add_to_index(
        files, index, replace=replace, model=model, workers=workers, progress=progress_for()
    )
    if as_json:
        print(json.dumps(report.to_dict()))
        return
    replaced = f" ({report.replaced:,} replaced)" if report.replaced else ""
    print(
        f"{_count(report.added, 'passage')} added{replaced}, {report.tokens:,} tokens, in "
        f"{report.seconds['total']:.0f} s: {index} has {report.passages:,} now, generation "
        f"{report.generation}"
    )
    _print_drift(report.drift)


def delete(
    index: IndexPath,
    ids: Annotated[
        str, typer.Option("--ids", metavar="FILE", help="One id a line; - reads standard input.")
    ],
    missing_ok: Annotated[
        bool, typer.Option("--missing-ok", help="Pass over ids that are not in the index.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete passages by their ids, all of them or, if one is not there, none.

    Publishes a new generation. No other passage moves; the bytes of deleted ones are dropped by
    `tartan index compact`, and freed by `tartan index gc` after it.

    Example: `echo doc-17 | tartan index delete notes.tartan --ids -`
    """
    from colbert_core.change import delete_passages
    from colbert_core.index import read_current

    before = read_current(index)
    manifest = delete_passages(index, _read_ids(ids), missing_ok=missing_ok)
    count = before.passages - manifest.passages
    if as_json:
        print(json.dumps({"deleted": count, **_about(manifest)}))
        return
    print(
        f"{_count(count, 'passage')} deleted: {index} has {manifest.passages:,} now, generation "
        f"{manifest.generation}"
    )
    stored = manifest.passages + manifest.deleted
    if manifest.deleted > MUCH_DELETED * stored:
        print(
            f"{manifest.deleted:,} of {stored:,} stored passages are deleted ones; drop them with "
            f"`tartan index compact {index}`"
        )


def compact(
    index: IndexPath,
    shards: Annotated[
        int | None,
        typer.Option("--shards", help="How many to make; by default as many as were built."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge what was added into the shards, drop what was deleted, and measure the presets anew.

    Works on the stored bytes: nothing is encoded or decoded, and no id or order changes. Shards
    that neither lost nor got passages are shared with the generation before. Afterwards
    `tartan index gc` frees the old ones.

    Example: `tartan index compact notes.tartan && tartan index gc notes.tartan --keep 0`
    """
    from colbert_core.change import compact_index
    from colbert_core.index import read_current
    from colbert_core.index.presets import CALIBRATED_ON

    before = read_current(index)
    manifest = compact_index(index, shards)
    done = manifest.generation != before.generation
    if as_json:
        print(json.dumps({"compacted": done, "dropped": before.deleted, **_about(manifest)}))
        return
    if not done:
        print(f"{index}: nothing was added or deleted since it was built; there is nothing to do")
        return
    print(
        f"{_count(before.deleted, 'deleted passage')} dropped, {len(before.shards)} shards are "
        f"{len(manifest.shards)}: {index}, generation {manifest.generation}"
    )
    if CALIBRATED_ON in before.extras:
        print(
            "what recall takes is measured without queries again: "
            f"`tartan index calibrate {index} --queries FILE`"
        )


def rollback(
    index: IndexPath,
    generation: Annotated[
        str | None,
        typer.Argument(metavar="GENERATION", help="By default the one that the live replaced."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make another generation live: the one before, or any that `generations` lists.

    Nothing is lost: give the newer generation's name to go forward again, until gc collects it.

    Example: `tartan index rollback notes.tartan`
    """
    from colbert_core.generations import rollback as go_back

    manifest = go_back(index, generation)
    if as_json:
        print(json.dumps(_about(manifest)))
        return
    print(f"{index}: generation {manifest.generation} is live, {manifest.passages:,} passages")


def generations(index: IndexPath, as_json: Json = False) -> None:
    """List the generations of an index, the newest first.

    Every build, add, delete and compact makes one. They share what did not change, so their sizes
    overlap.
    """
    from rich.console import Console
    from rich.table import Table

    from colbert_core.generations import generations as stored

    infos = stored(index)
    if as_json:
        print(json.dumps([asdict(info) for info in infos]))
        return
    table = Table(
        "generation", "created", "passages", "deleted", "shards", "deltas", "MB", "", box=None
    )
    for info in infos:
        marks = [name for name, is_so in (("live", info.live), ("in use", info.in_use)) if is_so]
        table.add_row(
            info.generation,
            info.created[:16].replace("T", " "),
            f"{info.passages:,}",
            f"{info.deleted:,}",
            f"{info.shards:,}",
            f"{info.delta_shards:,}",
            f"{info.size_bytes / 1e6:,.1f}",
            ", ".join(marks),
        )
    Console().print(table)


def gc(
    index: IndexPath,
    keep: Annotated[
        int, typer.Option("--keep", help="Generations to keep beside the live one, the newest.")
    ] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    unfinished: Annotated[
        bool,
        typer.Option("--unfinished", help="Also what interrupted jobs left and could go on with."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove old generations, and every file that no generation needs.

    The live generation stays, and so does each that a process on this file system has open, a
    server's among them: it holds a lock that ends with the process. Leftovers of killed writers go.

    Example: `tartan index gc notes.tartan --keep 3 --dry-run`
    """
    from colbert_core.generations import collect

    done = collect(index, keep, dry_run=dry_run, unfinished=unfinished)
    if as_json:
        print(json.dumps({"dry_run": dry_run, **asdict(done)}))
        return
    would = "would be removed" if dry_run else "removed"
    for name in done.files:
        print(f"{would}: {name}")
    print(
        f"{_count(len(done.removed), 'generation')} {would}, {_count(len(done.kept), 'generation')}"
        f" kept, {done.freed_bytes / 1e6:,.1f} MB {'would be ' if dry_run else ''}freed"
    )
    if done.in_use:
        print(f"kept because a process has them open: {', '.join(done.in_use)}")
    if done.unfinished:
        print("an interrupted job's work was left; run its command again, or give --unfinished")


def _read_ids(source: str) -> list[str]:
    """Ids, one a line; empty lines are passed over.

    Raises:
        InvalidInput: the file cannot be read as text.
    """
    from colbert_core.errors import InvalidInput

    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        lines = raw.decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is not UTF-8: {error.reason}"
        raise InvalidInput(f"{source}: ids cannot be read: {why}") from error
    ids = [line.removesuffix("\r") for line in lines]
    return [one for one in ids if one]


def _about(manifest: Any) -> dict[str, Any]:
    return {
        "generation": manifest.generation,
        "passages": manifest.passages,
        "shards": len(manifest.shards),
    }


def _print_drift(value: float | None) -> None:
    from colbert_core.drift import REBUILD_ABOVE

    if value is None:
        return
    print(f"drift {value:.3f} (residuals of added tokens over those of the index's own)")
    if value > REBUILD_ABOVE:
        print(
            f"above {REBUILD_ABOVE}: the index's centroids fit what was added badly; build it anew "
            "from all documents, with `tartan index build --overwrite`"
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
