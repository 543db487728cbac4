"""How the cost of a query grows with the corpus: 10 k to 1 M passages, at a fixed recall.

    .venv/bin/python benchmarks/growth.py --vectors build/bench/acl-anthology-128

Passages are windows of 32 tokens of real ones, and beyond what there is of them perturbed copies:
`growth_index.py` says how. Each index is built in a process of its own and deleted when it has been
measured. Queries are real. Latency is of one query on one thread at the default recall; `kept` is
the overlap@10 with exhaustive search of the same index that it has.
"""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from adapter import Vectors
from machine import busy, machine
from report.growth import EXPONENT_FROM, exponent, growth_claims, growth_markdown
from report.plots import plot_growth
from report.write import SCHEMA, write
from truth import overlap_between

from colbert_core import Index

ROOT = Path(__file__).resolve().parents[1]
K = 10


def main() -> None:
    """Build, measure and delete one index per size."""
    args = arguments()
    vectors = Vectors.load(args.vectors)
    load_before, rows = busy(), []
    for size in args.sizes:
        index = args.work / f"growth-{size}"
        rows.append(build(size, index, args))
        if not args.build_only:
            rows[-1] |= measure(index, vectors, args)
            shutil.rmtree(index)
        print(json.dumps(rows[-1]), flush=True)
    if args.build_only:
        return
    about = {
        "theme": "growth",
        "collection": args.vectors.name,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": load_before,
        "load_after": busy(),
        "queries": min(args.queries, len(vectors.queries)),
        "k": K,
        "bits": args.bits,
        "recall": args.recall,
        "length": args.length,
        "passes": args.passes,
        "near_codes": args.near_codes,
    }
    document: dict[str, Any] = {"schema": SCHEMA, "about": about, "rows": rows}
    document["exponent"] = exponent(rows, EXPONENT_FROM)
    document["claims"] = growth_claims(document)
    stem = f"growth-{about['collection']}-{about['date']}"
    plot = plot_growth(document, args.out, stem)
    write(args.out, stem, document, growth_markdown(document, plot))


def build(size: int, index: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One index in a process of its own, with all threads; what it took, and its bytes. What an
    earlier run built is taken as it is."""
    record = index.with_suffix(".json")
    if record.exists() and index.exists():
        return dict(json.loads(record.read_text(encoding="utf-8")))
    shutil.rmtree(index, ignore_errors=True)
    script = ROOT / "benchmarks" / "growth_index.py"
    options = ["--out", str(index), "--length", str(args.length), "--bits", str(args.bits)]
    options += ["--near-codes"] * args.near_codes
    threads = {"OMP_NUM_THREADS": str(args.build_threads)}
    print(f"build {size:,} …", flush=True)
    done = subprocess.run(
        [sys.executable, str(script), str(args.vectors), str(size), *options],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | threads,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    files = [path for path in index.rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files if path.name != "texts.arrow")
    built = {"passages": size} | json.loads(done.stdout) | {"bytes": total}
    record.write_text(json.dumps(built), encoding="utf-8")
    return built


def measure(folder: Path, vectors: Vectors, args: argparse.Namespace) -> dict[str, Any]:
    """Latency of single queries, its share in centroids, and the overlap with exhaustive search."""
    index = Index.open(folder)
    codec = index.generation.codec
    queries = [np.ascontiguousarray(q, np.float32) for q in vectors.queries[: args.queries]]
    best = [ids(index.search(query, k=K, exact=True)) for query in queries]
    for query in queries:
        index.search(query, k=K, recall=args.recall)
    timings, probes = [], []
    for _ in range(args.passes):
        for query in queries:
            start, used = time.perf_counter(), time.process_time()
            index.search(query, k=K, recall=args.recall)
            timings.append((time.perf_counter() - start, time.process_time() - used))
            start = time.perf_counter()
            codec.centroid_table.probe(query, args.probes)
            probes.append(time.perf_counter() - start)
    per_query = 1e3 * np.median(np.reshape(timings, (args.passes, len(queries), 2)), axis=0)
    found = [ids(index.search(query, k=K, recall=args.recall)) for query in queries]
    p50, p95 = np.percentile(per_query[:, 0], [50, 95])
    return {
        "centroids": int(index.manifest.codec["centroids"]),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "cpu_p50_ms": float(np.median(per_query[:, 1])),
        "probe_ms": 1e3 * float(np.median(probes)),
        "kept": overlap_between(found, best, K),
    }


def ids(hits: Any) -> list[int]:
    """The ordinals of hits."""
    return [int(hit.id) for hit in hits]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    cache = ROOT / "build" / "bench"
    sizes = [10_000, 30_000, 100_000, 300_000, 1_000_000]
    parser.add_argument("--vectors", type=Path, default=cache / "acl-anthology-128")
    parser.add_argument("--sizes", nargs="+", type=int, default=sizes)
    parser.add_argument("--length", type=int, default=32, help="tokens of a passage")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--recall", type=float, default=0.95)
    parser.add_argument("--probes", type=int, default=16, help="for the share of stage 1 alone")
    parser.add_argument("--near-codes", action="store_true", help="see growth_index.py")
    parser.add_argument("--build-only", action="store_true", help="for a later run to measure")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--build-threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=cache, help="1.3 GB at a million passages")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
