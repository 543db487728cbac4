"""Searching under filters: what is found of what should be, and how long it takes.

    .venv/bin/python benchmarks/filters.py --vectors build/bench/acl-anthology-128 \
        --data ../shared/data/acl-anthology

Filters leave from all down to a thousandth of the passages: at random (`lot`), by region of the
vector space (`region`, which is what a filter on a topic does), and by the year and venue that an
ACL Anthology id tells. Recall is of the exact top 10 among what the filter leaves, same index. Each
filter is searched in the ways that `search/selective.py` chooses among, and as it chooses.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import datetime
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from adapter import Vectors
from collection import read_collection
from machine import busy, machine
from report.filters import filters_markdown
from report.write import SCHEMA, write

from colbert_core import Index
from colbert_core.filters import parse_filter
from colbert_core.search import Matcher, selective

ROOT = Path(__file__).resolve().parents[1]
K = 10
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
EVERYTHING = 1 << 62
WAYS: dict[str, dict[str, float]] = {
    "as chosen": {"SCORED_TOKENS": selective.SCORED_TOKENS},
    "as without a filter": {"SCORED_TOKENS": -1, "COMPARED_TOKENS": -1},
    "compare all": {"SCORED_TOKENS": -1, "COMPARED_TOKENS": EVERYTHING},
    "score all": {"SCORED_TOKENS": EVERYTHING},
}


def main() -> None:
    """Build where needed, measure every filter, write the results."""
    args = arguments()
    vectors = Vectors.load(args.vectors)
    load_before = busy()
    index = open_or_build(vectors, args)
    queries = vectors.queries[: args.queries]
    for query in queries[:20]:
        index.search(query, k=K)
    rows = []
    for kind, share, text in filters_of(len(index)):
        rows.append(measure(index, queries, kind, share, text))
        print(rows[-1], flush=True)
    about = {
        "theme": "filters",
        "collection": args.vectors.name,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": load_before,
        "load_after": busy(),
        "passages": len(index),
        "tokens": index.manifest.tokens,
        "bits": index.manifest.codec["bits"],
        "queries": len(queries),
        "scored_tokens": selective.SCORED_TOKENS,
        "compared_tokens": selective.COMPARED_TOKENS,
    }
    document = {"schema": SCHEMA, "about": about, "rows": rows}
    stem = f"filters-{about['collection']}-{about['date']}"
    write(args.out, stem, document, filters_markdown(document))


def open_or_build(vectors: Vectors, args: argparse.Namespace) -> Index:
    """The index with its metadata; kept between runs."""
    path = args.work / f"filters-{args.vectors.name}"
    if args.rebuild:
        shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        ids = [one for one, _ in read_collection(args.data).passages]
        Index.build(
            path,
            vectors.tokens,
            doclens=np.diff(vectors.offsets),
            ids=ids,
            metadata=metadata_of(vectors, ids),
        )
    return Index.open(path)


def metadata_of(vectors: Vectors, ids: Sequence[str]) -> list[dict[str, Any]]:
    """For each passage a lot, the rank of its mean along their main direction, year and venue."""
    count = len(vectors)
    lots = np.random.default_rng(0).permutation(count)
    means = np.stack([vectors.passage(pid).astype(np.float32).mean(0) for pid in range(count)])
    _, _, directions = np.linalg.svd(means - means.mean(0), full_matrices=False)
    regions = np.argsort(np.argsort(means @ directions[0]))
    rows = []
    for pid, one in enumerate(ids):
        row: dict[str, Any] = {"lot": int(lots[pid]), "region": int(regions[pid])}
        if new := re.match(r"(\d{4})\.(\w+)-", one):
            row |= {"year": int(new[1]), "venue": new[2]}
        elif old := re.match(r"([A-Z])(\d\d)-", one):
            year = int(old[2])
            row |= {"year": year + (1900 if year > 50 else 2000), "venue": old[1]}
        rows.append(row)
    return rows


def filters_of(count: int) -> list[tuple[str, float, str]]:
    """(kind, share wanted, filter)."""
    wanted = [("none", 1.0, "exists(lot)")]
    for kind in ("lot", "region"):
        wanted += [(kind, share, f"{kind} < {round(share * count)}") for share in SHARES]
    wanted += [
        ("metadata", 0.5, "year >= 2017"),
        ("metadata", 0.05, 'venue = "emnlp"'),
        ("metadata", 0.005, 'venue in ("icon", "coling-industry") and year >= 2000'),
    ]
    return wanted


def measure(
    index: Index, queries: Sequence[np.ndarray], kind: str, share: float, text: str
) -> dict[str, Any]:
    """One filter, in every way."""
    wanted = parse_filter(text)
    matching = sum(int(Matcher(s).allowed(wanted).sum()) for s in index.generation.shards)
    truth = [set(index.search(query, k=K, filter=wanted, exact=True).ids) for query in queries]
    row: dict[str, Any] = {
        "kind": kind,
        "share": share,
        "filter": text,
        "matching": matching,
        "evaluate_ms": least_ms(
            lambda: [Matcher(s).allowed(wanted) for s in index.generation.shards]
        ),
        "ways": {},
    }
    for name, constants in WAYS.items():
        with patch.multiple(selective, **constants):
            row["ways"][name] = searched(index, queries, truth, text if kind != "none" else None)
    return row


def searched(
    index: Index, queries: Sequence[np.ndarray], truth: Sequence[set[str]], text: str | None
) -> dict[str, float]:
    """Recall of the exact top 10, and processor milliseconds, the best of two passes."""
    wanted = None if text is None else parse_filter(text)
    shares, seconds = [], []
    for query, best in zip(queries, truth, strict=True):
        hits = index.search(query, k=K, filter=wanted)
        shares.append(len(best & set(hits.ids)) / max(1, len(best)))
        assert len(hits) == len(best), "fewer hits than match"
        seconds.append(least_ms(lambda q=query: index.search(q, k=K, filter=wanted).ids, 2))
    return {
        "recall": round(float(np.mean(shares)), 4),
        "p50_ms": round(float(np.percentile(seconds, 50)), 3),
        "p95_ms": round(float(np.percentile(seconds, 95)), 3),
    }


def least_ms(work: Callable[[], object], times: int = 5) -> float:
    """Processor milliseconds of the quickest of several runs: on an idle machine, the latency."""
    best = float("inf")
    for _ in range(times):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return round(1000 * best, 3)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, required=True, help="made by `make bench`")
    parser.add_argument("--data", type=Path, required=True, help="folder in BEIR's layout")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--rebuild", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
