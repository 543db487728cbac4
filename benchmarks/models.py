"""Models beside one another on collections with judgements: exact MaxSim, and an index of ours.

    python benchmarks/models.py --data ../shared/data --kept vectors --out results.json \\
        --model untrained-384=minilm-untrained --model untrained-128=minilm-untrained:128 \\
        --model trained=run/additions

A model is NAME=MODEL or NAME=MODEL:DIM, the second with its token vectors reduced by the PCA of the
collection's own, as `tartan index build --dim` does. Token vectors are encoded once for each model
and kept as float16 under `--kept`; figures that the results hold are not measured again, so that a
run that was stopped goes on.

A model may have been trained on passages of `acl-anthology`: `--unseen`, a file of their ids,
leaves them out of what every model is measured on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from cluster.beir import Judged, read_judged
from cluster.evaluation import DEPTH, Run, exact_run, measures
from colbert_core.api import Index
from colbert_core.text import Encoder
from colbert_core.text.corpus import read_corpus
from colbert_core.text.projection import fit_pca
from colbert_core.types import F16, F32, I32, Bool

COLLECTIONS = ("scifact", "nfcorpus", "cranfield", "cisi", "acl-anthology")
ENCODE_AT_ONCE = 2048
SCORE_AT_ONCE = 256
PCA_SAMPLE = 200_000


@dataclass(frozen=True, slots=True)
class Model:
    """What is measured: a name for the table, what to load, and dimensions to reduce to."""

    name: str
    source: str
    dim: int | None

    @classmethod
    def parse(cls, text: str) -> Model:
        """NAME=MODEL[:DIM]."""
        name, _, source = text.partition("=")
        source, _, dim = source.partition(":")
        return cls(name, source, int(dim) if dim else None)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A collection as one model sees it: passages [T, D] and [N], and a matrix for each query."""

    ids: list[str]
    vectors_TD: F16
    doclens_N: I32
    queries: list[F32]


def main() -> None:
    """Measure what the results lack."""
    options = _options()
    rows: list[dict[str, Any]] = json.loads(options.out.read_text()) if options.out.exists() else []
    unseen = set(options.unseen.read_text().split()) if options.unseen else set()
    for collection in options.collections:
        judged = _every(read_judged(options.data / collection, "test"), options.every)
        for model in map(Model.parse, options.model):
            without = unseen if collection == "acl-anthology" else set[str]()
            name = f"{collection}, unseen" if without else collection
            if (model.name, name) in {(row["model"], row["collection"]) for row in rows}:
                continue
            print(f"{time.strftime('%H:%M:%S')} {name}, {model.name}", flush=True)
            encoded = _reduced(_encode(model, collection, judged, options), model.dim)
            rows.append(_row(model, name, judged, encoded, without, options.bits))
            _write(options.out, rows)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    """The rows as JSON, and beside them as a table."""
    for target, text in (
        (path, json.dumps(rows, indent=1)),
        (path.with_suffix(".md"), _table(rows)),
    ):
        new = target.with_name(f"{target.name}.new")
        new.write_text(text + "\n", encoding="utf-8")
        new.rename(target)


def _table(rows: list[dict[str, Any]]) -> str:
    """nDCG@10: a line for each model and way to score, a column for each collection."""
    collections = list(dict.fromkeys(row["collection"] for row in rows))
    lines = [["", *collections, "mean"], ["---", *("--:" for _ in collections), "--:"]]
    ways = list(dict.fromkeys(way for row in rows for way in row if isinstance(row[way], dict)))
    for way in ways:
        for model in dict.fromkeys(row["model"] for row in rows):
            found = {
                row["collection"]: row[way]["ndcg@10"]
                for row in rows
                if row["model"] == model and way in row
            }
            if found:
                cells = [f"{found[one]:.4f}" if one in found else "" for one in collections]
                whole = len(found) == len(collections)
                mean = f"{np.mean(list(found.values())):.4f}" if whole else ""
                lines.append([f"{model}, {way}", *cells, mean])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kept", type=Path, required=True, help="Where vectors are kept.")
    parser.add_argument("--out", type=Path, required=True, help="The results, JSON.")
    parser.add_argument("--model", action="append", required=True, help="NAME=MODEL[:DIM]")
    parser.add_argument("--collections", nargs="+", default=COLLECTIONS)
    parser.add_argument("--bits", type=int, nargs="*", default=[2])
    parser.add_argument("--every", type=int, default=1, help="Ask one in so many of 1,000.")
    parser.add_argument("--unseen", type=Path, help="Ids to leave out of acl-anthology.")
    return parser.parse_args()


def _every(judged: Judged, step: int) -> Judged:
    if len(judged.ids) < 1000:
        return judged
    return Judged(judged.ids[::step], judged.texts[::step], judged.qrels)


def _encode(model: Model, collection: str, judged: Judged, options: argparse.Namespace) -> Encoded:
    """Encode a collection, or take what is kept of it; a part is a file, put there as a whole."""
    encoder = Encoder.load(model.source)
    facts = json.dumps(replace(encoder.identity, source="").to_dict(), sort_keys=True)
    folder = options.kept / hashlib.sha256(facts.encode()).hexdigest()[:12] / collection
    folder.mkdir(parents=True, exist_ok=True)
    passages = [document.passage for document in read_corpus(options.data / collection)]
    cuts = [*range(0, len(passages), ENCODE_AT_ONCE), len(passages)]
    vectors, doclens = [], []
    for start, stop in pairwise(cuts):
        part = folder / f"{start:09d}.npz"
        if not part.exists():
            texts = [passage.text for passage in passages[start:stop]]
            made = encoder.encode_passages(texts)
            new = part.with_suffix(".new.npz")
            np.savez(new, vectors=made.vectors_TD.astype(np.float16), doclens=made.doclens_N)
            new.rename(part)
        with np.load(part) as held:
            vectors.append(held["vectors"])
            doclens.append(held["doclens"])
    ids = [passage.id for passage in passages]
    queries = encoder.encode_queries(list(judged.texts))
    return Encoded(ids, np.concatenate(vectors), np.concatenate(doclens), queries)


def _reduced(encoded: Encoded, dim: int | None) -> Encoded:
    if dim is None:
        return encoded
    step = max(1, len(encoded.vectors_TD) // PCA_SAMPLE)
    matrix_HD = fit_pca(encoded.vectors_TD[::step].astype(np.float32), dim)
    parts = [
        _unit(encoded.vectors_TD[start : start + PCA_SAMPLE].astype(np.float32) @ matrix_HD)
        for start in range(0, len(encoded.vectors_TD), PCA_SAMPLE)
    ]
    vectors_TD = np.concatenate([part.astype(np.float16) for part in parts])
    queries = [_unit(Q_LH @ matrix_HD) for Q_LH in encoded.queries]
    return Encoded(encoded.ids, vectors_TD, encoded.doclens_N, queries)


def _unit(vectors_TD: F32) -> F32:
    unit_TD: F32 = vectors_TD / np.linalg.norm(vectors_TD, axis=1, keepdims=True)
    return unit_TD


def _row(
    model: Model,
    name: str,
    judged: Judged,
    encoded: Encoded,
    without: set[str],
    bits: Sequence[int],
) -> dict[str, Any]:
    kept_N = np.array([one not in without for one in encoded.ids])
    dim = encoded.vectors_TD.shape[1]
    row: dict[str, Any] = {"model": model.name, "collection": name, "dim": dim}
    row |= {"queries": len(judged.ids), "passages": int(kept_N.sum())}
    row["exact"] = measures(judged, exact_run(encoded.queries, _batches(encoded, kept_N)))
    for count in bits:
        row[f"{count} bits"] = measures(judged, _index_run(encoded, kept_N, count))
    print(json.dumps(row), flush=True)
    return row


def _batches(encoded: Encoded, kept_N: Bool) -> Iterator[tuple[list[str], F32, I32]]:
    ends_N = np.cumsum(encoded.doclens_N, dtype=np.int64)
    cuts = [*range(0, len(encoded.ids), SCORE_AT_ONCE), len(encoded.ids)]
    for start, stop in pairwise(cuts):
        first = ends_N[start] - encoded.doclens_N[start]
        kept_T = np.repeat(kept_N[start:stop], encoded.doclens_N[start:stop])
        vectors_TD = encoded.vectors_TD[first : ends_N[stop - 1]][kept_T].astype(np.float32)
        ids = [encoded.ids[at] for at in range(start, stop) if kept_N[at]]
        if ids:
            yield ids, vectors_TD, encoded.doclens_N[start:stop][kept_N[start:stop]]


def _index_run(encoded: Encoded, kept_N: Bool, bits: int) -> Run:
    """The same through an index, with the defaults of a build and of a search."""
    kept_T = np.repeat(kept_N, encoded.doclens_N)
    vectors_TD = encoded.vectors_TD if kept_N.all() else encoded.vectors_TD[kept_T]
    ids = [one for one, kept in zip(encoded.ids, kept_N, strict=True) if kept]
    with tempfile.TemporaryDirectory(prefix="tartan-models-") as folder:
        index = Index.build(
            folder, vectors_TD, ids, bits, doclens=encoded.doclens_N[kept_N], normalize=True,
            overwrite=True,
        )  # fmt: skip
        found = [index.search(Q_LD, k=DEPTH) for Q_LD in encoded.queries]
    return [[(hit.id, hit.score) for hit in hits] for hits in found]


if __name__ == "__main__":
    main()
