"""A BEIR-layout collection: passages, the queries that have judgements, and the judgements."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Collection:
    """Texts and judgements of one split.

    Attributes:
        name: the folder's name.
        passages: (id, title and text) in the order of the file.
        queries: (id, text) of those with judgements, in the order of the file.
        qrels: query id → passage id → grade.
    """

    name: str
    passages: list[tuple[str, str]]
    queries: list[tuple[str, str]]
    qrels: dict[str, dict[str, int]]


def read_collection(folder: Path, *, split: str = "test", queries: int | None = None) -> Collection:
    """Read a folder with `corpus.jsonl[.gz]`, `queries.jsonl` and `qrels/<split>.tsv`.

    Args:
        queries: at most so many queries, spread evenly over those with judgements.
    """
    qrels: dict[str, dict[str, int]] = {}
    with (folder / "qrels" / f"{split}.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    corpus = next(path for path in sorted(folder.glob("corpus.jsonl*")))
    passages = [
        (record["_id"], f"{record.get('title', '')} {record['text']}".strip())
        for record in _records(corpus)
    ]
    judged = [
        (record["_id"], record["text"])
        for record in _records(folder / "queries.jsonl")
        if record["_id"] in qrels
    ]
    if queries is not None and queries < len(judged):
        judged = [judged[i * len(judged) // queries] for i in range(queries)]
    kept = {query_id: qrels[query_id] for query_id, _ in judged}
    return Collection(folder.name, passages, judged, kept)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it splits at.
    for line in text.split("\n"):
        if line.strip():
            yield json.loads(line)
