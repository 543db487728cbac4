"""`tartan eval --compare`: BM25, a bi-encoder, late interaction before and after training, at each
compression, and a cross-encoder over the best hundred, as one table and a plot."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from cluster.beir import Judged, read_judged
from cluster.evaluation import measures, percentiles
from cluster.progress import Progress, progress_for
from cluster.train_comparing import (
    Collection,
    System,
    bi_encoder_system,
    bm25_system,
    encode,
    index_system,
    reranked_system,
    timed_run,
    uncompressed_system,
)
from colbert_core.errors import InvalidInput
from colbert_core.text.aliases import locate
from colbert_core.text.checkpoint import read_checkpoint
from colbert_core.text.corpus import read_corpus
from colbert_core.train.bi_encoder import pooling_of
from colbert_core.train.cross_encoder import CrossEncoder

BITS = (2, 1)
MEASURES = ("ndcg@10", "mrr@10", "recall@100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared.

    Attributes:
        data, split: a collection in BEIR's layout.
        model: late interaction after training: path, hub name or alias.
        before: the same before it, or None.
        bi_encoder: the model of one vector a text that is compared.
        teacher: a cross-encoder, or None.
        stemmer: BM25's, or None.
        language: of the texts, for models with an adapter for each.
        limit: only the first so many queries.
    """

    data: Path
    split: str
    model: str
    before: str | None
    bi_encoder: str
    teacher: str | None
    stemmer: str | None
    language: str | None
    limit: int | None


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table; milliseconds at p50, from text to hits."""

    system: str
    measures: dict[str, float]
    latency_ms: float
    bytes_per_passage: float


def compare_command(what: Comparison, *, plot: Path | None, as_json: bool) -> None:
    """Measure every system, and print the table."""
    if plot is not None and not plot.parent.is_dir():
        raise InvalidInput(f"{plot}: there is no such folder; choose another --plot")
    judged = read_judged(what.data, what.split, what.limit)
    # Loaded before anything is measured, so that a wrong one is refused before the work.
    teacher = None if what.teacher is None else CrossEncoder.load(what.teacher, _device())
    _check_models(what)
    documents = [document.passage for document in read_corpus(what.data)]
    collection = Collection([one.id for one in documents], [one.text for one in documents])
    progress = progress_for()
    try:
        with tempfile.TemporaryDirectory(prefix="tartan-compare-") as folder:
            systems = _systems(what, collection, teacher, Path(folder))
            rows = [_measure(system, judged, progress) for system in systems]
    finally:
        progress.close()
    if plot is not None:
        _draw(rows, plot)
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        _print(rows)


def _check_models(what: Comparison) -> None:
    """Refuse, before anything is measured, what is no checkpoint, or pools as we cannot."""
    for model in (what.model, what.before):
        if model is not None:
            read_checkpoint(locate(model))
    pooling_of(read_checkpoint(locate(what.bi_encoder)).folder)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _systems(
    what: Comparison, collection: Collection, teacher: CrossEncoder | None, folder: Path
) -> Iterator[System]:
    """One after the other, so that what one needs is not held while the next is measured."""
    bm25 = bm25_system(collection, what.stemmer)
    yield bm25
    yield bi_encoder_system(collection, what.bi_encoder, what.language)
    if what.before is not None:
        encoded = encode(collection, what.before, folder / "before", what.language)
        yield uncompressed_system("before, uncompressed", collection, encoded)
    encoded = encode(collection, what.model, folder / "after", what.language)
    yield uncompressed_system("trained, uncompressed", collection, encoded)
    ours = None
    for bits in BITS:
        name = f"trained, {bits} bit{'s' if bits > 1 else ''}"
        system = index_system(name, collection, encoded, bits, folder / f"bits-{bits}")
        ours = ours or system
        yield system
    if teacher is not None and ours is not None:
        yield reranked_system(bm25, teacher, collection)
        yield reranked_system(ours, teacher, collection)


def _measure(system: System, judged: Judged, progress: Progress) -> Measured:
    progress.start(system.name, len(judged.texts), "queries")
    run, seconds = timed_run(system, judged.texts)
    progress.advance(len(run))
    progress.finish()
    return Measured(
        system.name, measures(judged, run), percentiles(seconds)["p50"], system.bytes_per_passage
    )


def _print(rows: list[Measured]) -> None:
    table = Table("", *MEASURES, "ms a query", "bytes a passage", box=None)
    for row in rows:
        figures = [f"{row.measures[name]:.4f}" for name in MEASURES]
        table.add_row(
            row.system, *figures, f"{row.latency_ms:,.1f}", f"{row.bytes_per_passage:,.0f}"
        )
    Console().print(table)


def _draw(rows: list[Measured], path: Path) -> None:
    """nDCG@10 against bytes a passage, both as points; latency stands beside each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row in rows:
        place = (row.bytes_per_passage, row.measures["ndcg@10"])
        axes.scatter(*place)
        axes.annotate(
            f"{row.system} ({row.latency_ms:,.1f} ms)",
            place,
            textcoords="offset points",
            xytext=(5, 4),
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlabel("bytes a passage")
    axes.set_ylabel("nDCG@10")
    axes.margins(x=0.3, y=0.15)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120, format=path.suffix.removeprefix(".") or "png")
