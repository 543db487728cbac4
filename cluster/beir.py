"""Reading a collection in BEIR's layout: corpus, queries, and relevance judgements.

DIR/corpus.jsonl[.gz]   DIR/queries.jsonl   DIR/qrels/<split>.tsv
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import orjson

from colbert_core.errors import CorpusError


@dataclass(frozen=True, slots=True)
class Judged:
    """Queries of a split that have judgements.

    Attributes:
        ids, texts: of the queries, in the order of the file.
        qrels: query id → passage id → relevance.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    qrels: dict[str, dict[str, int]]


def read_judged(folder: Path, split: str, limit: int | None = None) -> Judged:
    """Read queries and judgements.

    Args:
        folder: a collection in BEIR's layout.
        split: name of the file under `qrels/`.
        limit: keep only the first so many queries.

    Raises:
        CorpusError: a file is missing or is not what it should be.
    """
    qrels = read_qrels(folder / "qrels" / f"{split}.tsv")
    ids, texts = [], []
    path = folder / "queries.jsonl"
    for number, line in enumerate(_lines(path), 1):
        try:
            row = orjson.loads(line)
            identity, text = str(row["_id"]), row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"{path}:{number}: a query needs `_id` and `text`: {error}"
            ) from error
        if identity in qrels:
            ids.append(identity)
            texts.append(text)
    if not ids:
        raise CorpusError(f"{path}: no query has a judgement in split {split!r}")
    return Judged(tuple(ids[:limit]), tuple(texts[:limit]), qrels)


def read_queries(path: Path) -> list[str]:
    """The texts of queries: `text` of each line of a file that ends in .jsonl, else the lines.

    Raises:
        CorpusError: the file cannot be read, or a line is no query.
    """
    lines = _lines(path, "give a file of queries")
    if path.suffix != ".jsonl":
        return [line.strip() for line in lines]
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            text = orjson.loads(line)["text"]
            texts.append(text.strip())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorpusError(f"{path}:{number}: a query needs `text`: {error}") from error
    return [text for text in texts if text]


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Judgements as query id → passage id → relevance, from a TSV of these three.

    Raises:
        CorpusError: the file cannot be read, or a line is no judgement.
    """
    qrels: dict[str, dict[str, int]] = {}
    rows = csv.reader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(rows, 1):
        if number == 1 and row[:1] == ["query-id"]:
            continue
        try:
            query, passage, relevance = row
            qrels.setdefault(query, {})[passage] = int(relevance)
        except ValueError as error:
            raise CorpusError(
                f"{path}:{number}: a judgement is query-id, corpus-id, score: {error}"
            ) from error
    return qrels


def _lines(path: Path, remedy: str = "--data takes a folder in BEIR's layout") -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{path}: it cannot be read ({error}); {remedy}") from error
