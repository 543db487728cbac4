"""`tartan index calibrate`: what recall takes, measured with queries that were asked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli_options import IndexPath, Json

if TYPE_CHECKING:
    from cluster.progress import Progress
    from colbert_core.build import OnProgress
    from colbert_core.index import Preset

SHOWN_K = 10


def calibrate(
    index: IndexPath,
    queries: Annotated[
        Path,
        typer.Option(
            "--queries",
            metavar="FILE",
            help="JSON lines with `text`, or one query a line if it does not end in .jsonl.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Measure with real queries what each recall takes, and publish that as a generation.

    A build makes queries of passages, for want of others. Give some hundreds that were asked, and
    `recall` gets closer to what it says, mostly for less work. Nothing else changes: shards and
    codec are those of the generation before. `add` and `delete` keep what was measured; after
    `compact` calibrate again.

    Example: `tartan index calibrate notes.tartan --queries asked.txt`
    """
    from cluster.beir import read_queries
    from cluster.progress import progress_for
    from colbert_core import Index
    from colbert_core.index.presets import CALIBRATED_ON

    asked, opened = read_queries(queries), Index.open(str(index), in_memory=False)
    progress = progress_for()
    try:
        calibrated = opened.calibrate(asked, on_progress=_reporting(progress))
    finally:
        progress.close()
    before, after = opened.manifest.presets, calibrated.manifest.presets
    measured_with = calibrated.manifest.extras[CALIBRATED_ON]
    about = {"generation": calibrated.manifest.generation, "queries": measured_with}
    if as_json:
        print(json.dumps({**about, "presets": [asdict(preset) for preset in after]}))
        return
    print(f"{index}: measured with {about['queries']:,} queries, generation {about['generation']}")
    _print_presets(before, after)


def _reporting(progress: Progress) -> OnProgress:
    """Stages of queries, as jobs show theirs."""

    def report(stage: str, done: int, total: int) -> None:
        if done == 1:
            progress.start(stage, total, "queries")
        progress.advance(1)
        if done == total:
            progress.finish()

    return report


def _print_presets(before: tuple[Preset, ...], after: tuple[Preset, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    old = {(preset.k, preset.recall): preset for preset in before}
    table = Table(f"recall@{SHOWN_K}", "probes", "compared at most", "scored, mean", box=None)
    for preset in after:
        if preset.k != SHOWN_K:
            continue
        was: Any = old.get((preset.k, preset.recall))
        table.add_row(
            f"{preset.recall:g}",
            *(
                f"{getattr(was, name):,} → {getattr(preset, name):,}" if was else "–"
                for name in ("nprobe", "candidates", "mean_scored")
            ),
        )
    Console().print(table)
