"""`tartan train mine` and `score`: from judged pairs to tuples that a teacher has scored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.cli_train_options import Bf16, Corpus, NWay, Queries, Tuples
from cluster.progress import progress_for
from colbert_core.errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Add the commands to `tartan train`."""
    app.command("mine")(mine_command)
    app.command("score")(score_command)


def mine_command(
    qrels: Annotated[
        Path,
        typer.Argument(
            metavar="QRELS", help="Relevant pairs, TSV: query-id, corpus-id, score, as BEIR has it."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSONL of tuples.")],
    corpus: Annotated[list[str], typer.Option("--corpus", metavar="CORPUS", help="Passages.")],
    queries: Annotated[
        str, typer.Option("--queries", metavar="FILE", help="JSONL (`_id`, `text`) or TSV.")
    ],
    index: Annotated[
        str | None,
        typer.Option("--index", metavar="INDEX", help="Negatives from this index of the corpus."),
    ] = None,
    bm25: Annotated[bool, typer.Option("--bm25", help="Negatives from BM25.")] = False,
    language: Annotated[
        str, typer.Option("--stemmer", help="BM25's: a language, such as `german`, or `none`.")
    ] = "english",
    n_way: Annotated[int, typer.Option("--n-way", help="Passages of a tuple.")] = 16,
    ranks: Annotated[
        str, typer.Option("--ranks", metavar="FIRST:LAST", help="Where negatives are drawn from.")
    ] = "1:100",
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="A cross-encoder that tells negatives that are none."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin", help="With --teacher: how far below the positive a negative scores."
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
) -> None:
    """Find hard negatives for relevant pairs.

    Example: `tartan train mine qrels/train.tsv --corpus corpus.jsonl --queries queries.jsonl
    --index INDEX --bm25 --ranks 5:100 --out mined.jsonl`
    """
    from cluster.train_mining import mine
    from colbert_core.train.mining import MiningSettings

    first, last = parse_ranks(ranks)
    report = mine(
        qrels,
        out,
        corpus=corpus,
        queries=queries,
        index=index,
        bm25=bm25,
        language=None if language == "none" else language,
        teacher=teacher,
        settings=MiningSettings(n_way=n_way, first=first, last=last, margin=margin, seed=seed),
        progress=progress_for(),
    )
    print(f"{report.tuples:,} tuples of {n_way}: {out}")
    if report.left_out:
        print(f"{report.left_out:,} pairs have too few negatives in these ranks, and are left out")
    print(f"next: tartan train score {out} --teacher MODEL   or   tartan train teacher {out}")


def score_command(
    tuples: Tuples,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSONL of tuples.")],
    teacher: Annotated[
        list[str],
        typer.Option(
            "--teacher",
            help="A cross-encoder with one label, `maxsim:MODEL` for late interaction, "
            "`cosine:MODEL` for a bi-encoder, or `bm25`; of several, the average after "
            "normalisation.",
        ),
    ],
    corpus: Corpus = None,
    queries: Queries = None,
    n_way: NWay = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="By default one for each GPU, or CPU.")
    ] = None,
    bf16: Bf16 = False,
) -> None:
    """Let teachers score every passage of every tuple, on Ray.

    Killed at any moment, the same command goes on with what is done.

    Example: `tartan train score mined.jsonl --teacher teacher/checkpoint --corpus corpus.jsonl
    --queries queries.jsonl --out scored.jsonl`
    """
    from cluster.train_scoring import score_tuples

    count = score_tuples(
        tuples,
        out,
        teacher,
        corpus=corpus or None,
        queries=queries,
        n_way=n_way,
        workers=workers,
        progress=progress_for(),
        bf16=bf16,
    )
    print(f"{count:,} tuples scored: {out}")
    print(f"next: tartan train distill {out} --out RUN")


def parse_ranks(text: str) -> tuple[int, int]:
    """FIRST and LAST of `FIRST:LAST`.

    Raises:
        InvalidInput: it is not written so.
    """
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal()):
        raise InvalidInput(f"ranks {text!r}: write FIRST:LAST, such as 5:100")
    return int(first), int(last)
