"""`tartan eval`: quality, overlap with exact search, and latency on a judged collection."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.beir import Judged, read_judged
from cluster.evaluation import DEPTH, Run, measures, overlap, percentiles, uncompressed_run
from cluster.progress import Progress, fetching, progress_for
from colbert_core.errors import InvalidInput
from colbert_core.storage import Location
from colbert_core.types import Hit

Search = Callable[..., Sequence[Hit]]
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Runs:
    """The same queries at the depths that are measured."""

    top: Run
    deep: Run

    def overlaps(self, truth: Run) -> dict[str, float]:
        return {
            "overlap@10": overlap(self.top, truth, 10),
            "overlap@100": overlap(self.deep, truth, DEPTH),
        }


def evaluate_command(
    data: Path,
    split: str,
    *,
    target: str | None,
    index: Location | None,
    knobs: dict[str, Any],
    exact: bool,
    uncompressed: bool,
    limit: int | None,
    as_json: bool,
    only: str | None = None,
) -> None:
    """Run the queries of a split, over the passages that the filter `only` leaves, and print what
    was measured."""
    if (target is None) == (index is None):
        raise InvalidInput("give either --index INDEX or --target HOST:PORT")
    if uncompressed and index is None:
        raise InvalidInput("--uncompressed needs --index: the index knows which model to encode by")
    if only is not None:
        if uncompressed:
            raise InvalidInput("--uncompressed scores every passage: leave --filter out")
        knobs = {**knobs, "filter": only}
    judged = read_judged(data, split, limit)
    progress = progress_for()
    try:
        if index:
            report = _evaluate_index(data, index, judged, knobs, exact, uncompressed, progress)
        else:
            report = _evaluate_gateway(str(target), judged, knobs, exact, progress)
    finally:
        progress.close()
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)


def _evaluate_index(
    data: Path,
    path: Location,
    judged: Judged,
    knobs: dict[str, Any],
    exact: bool,
    uncompressed: bool,
    progress: Progress,
) -> dict[str, Any]:
    from colbert_core.api import Index
    from colbert_core.text.corpus import read_corpus

    with fetching() as on_fetch:
        index = Index.open(str(path), on_fetch=on_fetch)
    runs, report = _report(index.search, judged, knobs, exact, progress)
    if uncompressed:
        progress.start("uncompressed", len(index), "passages")
        passages = (document.passage for document in read_corpus(data))
        truth = uncompressed_run(index.encoder, judged.texts, passages, progress.advance)
        progress.finish()
        report["uncompressed"] = {**measures(judged, truth), **runs.overlaps(truth)}
    return report


def _evaluate_gateway(
    target: str, judged: Judged, knobs: dict[str, Any], exact: bool, progress: Progress
) -> dict[str, Any]:
    from cluster.client import Client
    from cluster.security.client import access_from_environment

    with Client(target, timeout_s=TIMEOUT_S, **access_from_environment()) as client:

        def search(text: str, **options: Any) -> Sequence[Hit]:
            answer = client.search(text, with_text=False, with_metadata=False, **options)
            return list(answer.hits)

        return _report(search, judged, knobs, exact, progress)[1]


def _report(
    search: Search, judged: Judged, knobs: dict[str, Any], exact: bool, progress: Progress
) -> tuple[_Runs, dict[str, Any]]:
    """Search all queries at k = 10 and at k = 100, and measure."""
    search(judged.texts[0], k=DEPTH, **knobs)  # loads the model; not timed
    top, top_s = _run(search, judged, {"k": 10, **knobs}, "search k=10", progress)
    deep, deep_s = _run(search, judged, {"k": DEPTH, **knobs}, "search k=100", progress)
    runs = _Runs(top, deep)
    report: dict[str, Any] = {
        **measures(judged, top),
        "recall@100": measures(judged, deep)["recall@100"],
        "queries": len(judged.ids),
        "latency_ms": percentiles(top_s),
        "latency_ms_k100": percentiles(deep_s),
    }
    if exact:
        every = {"k": DEPTH, "exact": True, "filter": knobs.get("filter")}
        truth, _ = _run(search, judged, every, "exhaustive", progress)
        report |= {**runs.overlaps(truth), "exhaustive": measures(judged, truth)}
    return runs, report


def _run(
    search: Search, judged: Judged, options: dict[str, Any], stage: str, progress: Progress
) -> tuple[Run, list[float]]:
    run: Run = []
    seconds = []
    progress.start(stage, len(judged.ids), "queries")
    for text in judged.texts:
        began = time.perf_counter()
        hits = search(text, **options)
        seconds.append(time.perf_counter() - began)
        run.append([(hit.id, hit.score) for hit in hits])
        progress.advance(1)
    progress.finish()
    return run, seconds


def _print(report: dict[str, Any]) -> None:
    table = Table("measure", "value", box=None)
    for name, value in report.items():
        if isinstance(value, dict):
            for inner, number in value.items():
                table.add_row(f"{name} {inner}", str(number))
        else:
            table.add_row(name, str(value))
    Console().print(table)
