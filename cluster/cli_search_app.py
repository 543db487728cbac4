"""`tartan search` and `tartan eval`: what each takes. Heavy imports stand inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_options import (
    Candidates,
    Filter,
    Json,
    Nprobe,
    Recall,
    Scored,
    SearchedIndex,
    Target,
)
from colbert_core.storage import location
from colbert_core.text.aliases import UNTRAINED_MODEL


def register(app: typer.Typer) -> None:
    """Add the commands to `tartan`."""
    app.command("search")(search_command)
    app.command("eval")(eval_command)


def search_command(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    target: Target = None,
    index: SearchedIndex = None,
    k: Annotated[int, typer.Option("-k", help="Hits.")] = 10,
    recall: Recall = None,
    nprobe: Nprobe = None,
    candidates: Candidates = None,
    scored: Scored = None,
    exact: Annotated[bool, typer.Option("--exact", help="Score every passage.")] = False,
    filter: Filter = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what each query token matched.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds.")] = 30.0,
    device: Annotated[
        str, typer.Option("--device", help="With --index: cpu, cuda, or one GPU, such as cuda:1.")
    ] = "cpu",
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            help="Of the query, where it is not the index's, for a model with an adapter for each.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Search a running gateway (default: 127.0.0.1:50051), or an index in this process.

    Examples: `tartan search "how do I merge sorted iterables" --index INDEX -k 5 --explain`,
    `tartan search "parsing" --index INDEX --filter 'year >= 2019 and not venue = "workshop"'`
    """
    from cluster.cli_search import Ask, search

    knobs = (k, recall, nprobe, candidates, scored, exact)
    search(
        Ask(query, *knobs, explain, timeout_s, filter, language),
        target=target,
        index=location(index) if index else None,
        device=device,
        as_json=as_json,
    )


def eval_command(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder in BEIR's layout.")],
    target: Target = None,
    index: SearchedIndex = None,
    split: Annotated[str, typer.Option("--split", help="qrels/<split>.tsv")] = "test",
    recall: Recall = None,
    nprobe: Nprobe = None,
    candidates: Candidates = None,
    scored: Scored = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Also overlap with exhaustive search of the same index."),
    ] = False,
    uncompressed: Annotated[
        bool,
        typer.Option(
            "--uncompressed",
            help="Also exact search over vectors encoded afresh: its measures, and overlap.",
        ),
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Only the first so many queries.")
    ] = None,
    filter: Filter = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="MODEL",
            help="Instead of an index: set a trained model, at each compression, beside BM25 and "
            "a bi-encoder.",
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option("--before", help="With --compare: the model before training.")
    ] = None,
    bi_encoder: Annotated[
        str, typer.Option("--bi-encoder", help="With --compare: one vector a passage.")
    ] = UNTRAINED_MODEL,
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="With --compare: a cross-encoder over the best hundred."),
    ] = None,
    stemmer: Annotated[
        str, typer.Option("--stemmer", help="With --compare: BM25's, or `none`.")
    ] = "english",
    language: Annotated[
        str | None,
        typer.Option(
            "--language",
            help="With --compare: of the texts, for models with an adapter for each: `de`.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="With --compare: .png or .svg.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure quality and latency on a collection with relevance judgements."""
    if compare is not None:
        from cluster.cli_train_compare import Comparison, compare_command

        what = Comparison(
            data=data,
            split=split,
            model=compare,
            before=before,
            bi_encoder=bi_encoder,
            teacher=teacher,
            stemmer=None if stemmer == "none" else stemmer,
            language=language,
            limit=limit,
        )
        compare_command(what, plot=plot, as_json=as_json)
        return
    from cluster.cli_eval import evaluate_command

    evaluate_command(
        data,
        split,
        target=target,
        index=location(index) if index else None,
        knobs={"recall": recall, "nprobe": nprobe, "candidates": candidates, "scored": scored},
        only=filter,
        exact=exact,
        uncompressed=uncompressed,
        limit=limit,
        as_json=as_json,
    )
