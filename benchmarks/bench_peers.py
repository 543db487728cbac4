"""Tartan beside the engines that users would otherwise pick, on the same vectors.

    make bench-peers
    .venv/bin/python benchmarks/bench_peers.py --data ../shared/data/scifact --engines tartan

Every engine builds and searches in a process of its own, in its own environment, through a small
adapter (`benchmarks/peers/engine_*.py`). README.md here says what is measured and how far it is
fair. Results go to benchmarks/results/ as JSON and as Markdown tables.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))

from adapter import Vectors  # noqa: E402
from collection import Collection, read_collection  # noqa: E402
from engines import ENGINES, EngineSpec  # noqa: E402
from launch import Bench, index_bytes, label_of  # noqa: E402
from machine import busy, machine, versions  # noqa: E402
from report import row, write_report  # noqa: E402
from truth import exact_top  # noqa: E402
from vectors import make_vectors  # noqa: E402


def main() -> None:
    """Run the benchmark as the command line says."""
    args = arguments()
    collection = read_collection(args.data, queries=args.queries)
    work = args.cache / f"{collection.name}-{args.dim}"
    make_vectors(collection, work, model=args.model, dim=args.dim)
    vectors = Vectors.load(work)
    exact = exact_top(vectors, max(args.k), work / "exact.npy")
    print(f"{len(vectors):,} passages, {len(vectors.tokens):,} tokens, {exact.shape[0]} queries")
    bench = Bench(ROOT, work, args.threads, args.warmup, args.passes, args.max_seconds)
    chosen = [spec for spec in ENGINES if spec.name in args.engines]
    rows: list[dict[str, Any]] = []
    load_before = busy()
    for spec in chosen:
        rows += measure(bench, spec, collection, vectors, exact, args)
    about = {
        "theme": args.theme,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": load_before,
        "load_after": busy(),
        "vectors": json.loads((work / "about.json").read_text(encoding="utf-8")),
        "threads": args.threads,
        "passes": args.passes,
        "warmup": args.warmup,
        "versions": {spec.name: versions(ROOT, spec) for spec in chosen},
    }
    about["vectors"].pop("queries")
    about["queries"] = len(collection.queries)
    write_report(args.out, about, rows)


def measure(
    bench: Bench,
    spec: EngineSpec,
    collection: Collection,
    vectors: Vectors,
    exact: Any,
    args: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Build one engine's indexes, search each at every setting and k; one row per run."""
    rows = []
    for options in spec.builds:
        if args.bits and options["bits"] not in (*args.bits, 32):
            continue
        if args.built and not bench.is_built(spec, options):
            continue
        name = f"{spec.name} {label_of(options)}"
        try:
            built = bench.build(spec, options, rebuild=spec.name in args.rebuild and not args.built)
            answer = bench.search(spec, options, args.k)
        except RuntimeError as error:
            print(f"{name}: failed\n{error}", flush=True)
            continue
        sizes = index_bytes(bench.index(spec, options), spec.kept_twice)
        for label, found in zip(answer["labels"], answer["runs"], strict=True):
            rows.append(
                row(spec, options, label, found, built, answer, sizes, collection, vectors, exact)
            )
            print(summary(rows[-1]), flush=True)
    return rows


def summary(cells: dict[str, Any]) -> str:
    """One line of progress."""
    return (
        f"{cells['engine']:12} {cells['index']:12} {cells['setting']:24} k={cells['k']:<4}"
        f" p50 {cells['p50_ms']:8.2f} ms (processor {cells['cpu_p50_ms']:.2f})"
        f"  overlap {cells['overlap']:.3f}  nDCG@10 {cells['ndcg_at_10']:.4f}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [spec.name for spec in ENGINES]
    data = ROOT.parent / "shared" / "data" / "scifact"
    parser.add_argument("--data", type=Path, default=data, help="a BEIR-layout folder")
    parser.add_argument("--engines", nargs="+", choices=names, default=names)
    parser.add_argument("--bits", nargs="+", type=int, help="only indexes of these widths")
    parser.add_argument("--k", nargs="+", type=int, default=[10, 100])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=60, help="per setting and k")
    parser.add_argument("--model", default="minilm-untrained")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--rebuild", nargs="*", choices=names, default=["tartan"])
    parser.add_argument(
        "--built", action="store_true", help="only indexes that are there; no builds"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--theme", default="peers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
