"""Options that several commands of `tartan train` share."""

from __future__ import annotations

from typing import Annotated

import typer

Tuples = Annotated[
    list[str],
    typer.Argument(
        metavar="TUPLES...",
        help="JSON lines: [qid, [pid, score], …] as ColBERT has it, or PyLate's objects with "
        "query, documents and scores; the first passage is the positive one. Also compressed, or "
        "Parquet.",
    ),
]
Corpus = Annotated[
    list[str] | None,
    typer.Option("--corpus", metavar="CORPUS", help="Passages, where tuples name them by id."),
]
Queries = Annotated[
    str | None,
    typer.Option("--queries", metavar="FILE", help="Queries: JSONL (`_id`, `text`) or TSV."),
]
NWay = Annotated[
    int | None,
    typer.Option("--n-way", help="Passages used of each tuple, the first ones; by default all."),
]
