"""Tartan alone, or beside the engines that users would otherwise pick, on the same vectors.

    make bench            make bench-peers            make bench-peers DATA="FOLDER FOLDER"
    .venv/bin/python benchmarks/bench.py --data ../shared/data/scifact --engines tartan

Every engine builds and searches in a process of its own, in its own environment, through a small
adapter (`benchmarks/peers/engine_*.py`). README.md here says what is measured and how far it is
fair. Results go to benchmarks/results/: JSON, tables and plots, one set per collection.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from adapter import Vectors
from collection import read_collection
from engines import ENGINES, EngineSpec
from launch import Bench, label_of
from machine import busy, machine, versions
from measure import Measurements, Row
from report.claims import claims
from report.plots import plot
from report.tables import markdown
from report.write import SCHEMA, write
from truth import exact_top
from vectors import make_vectors

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the benchmark as the command line says, collection by collection."""
    args = arguments()
    for folder in args.data:
        document = measure_collection(folder, args)
        stem = f"{args.theme}-{document['about']['collection']}-{document['about']['date']}"
        plots = plot(document, args.out, stem)
        write(args.out, stem, document, markdown(document, plots))


def measure_collection(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All engines on one collection, as one document."""
    collection = read_collection(folder, queries=args.queries)
    work = args.cache / f"{collection.name}-{args.dim}"
    make_vectors(collection, work, model=args.model, dim=args.dim)
    vectors = Vectors.load(work)
    exact = exact_top(vectors, max(args.k), work / "exact.npy")
    print(f"{len(vectors):,} passages, {len(vectors.tokens):,} tokens, {exact.shape[0]} queries")
    bench = Bench(ROOT, work, args.build_threads, args.warmup, args.passes, args.max_seconds)
    chosen = [spec for spec in ENGINES if spec.name in args.engines]
    load_before = busy()
    measured = Measurements(bench, collection, vectors, exact, sorted(args.k), args.threads)
    rows = measure(measured, chosen, args)
    if not rows["searches"]:
        raise SystemExit(f"{collection.name}: nothing was measured; see above, or `--help`")
    made = json.loads((work / "about.json").read_text(encoding="utf-8"))
    about = {
        "theme": args.theme,
        "collection": collection.name,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": load_before,
        "load_after": busy(),
        "passages": len(vectors),
        "tokens": len(vectors.tokens),
        "vectors": {name: made.get(name) for name in ("model", "dim", "identity", "truncated")},
        "queries": len(collection.queries),
        "ks": sorted(args.k),
        "threads": args.threads,
        "build_threads": args.build_threads,
        "passes": args.passes,
        "warmup": args.warmup,
        "versions": {spec.name: versions(ROOT, spec) for spec in chosen},
    }
    document = {"schema": SCHEMA, "about": about} | rows
    return document | {"claims": claims(document)}


def measure(
    measured: Measurements, chosen: list[EngineSpec], args: argparse.Namespace
) -> dict[str, list[Row]]:
    """Every index of every engine; an engine that fails is named, and the others go on."""
    rows: dict[str, list[Row]] = {"indexes": [], "searches": [], "throughput": [], "failed": []}
    for spec in chosen:
        for build in spec.builds:
            if args.indexes and label_of(build.options) not in args.indexes:
                continue
            rebuild = spec.name in args.rebuild
            if args.built and not rebuild and not measured.bench.is_built(spec, build.options):
                continue
            name = {"engine": spec.name, "index": label_of(build.options)}
            try:
                index, searches, throughput = measured.of(spec, build, rebuild=rebuild)
            except RuntimeError as error:
                print(f"{spec.name} {name['index']}: failed\n{error}", flush=True)
                rows["failed"].append(name | {"error": str(error)[-500:]})
                continue
            rows["indexes"].append(index)
            rows["searches"] += searches
            rows["throughput"] += throughput
            for cells in searches:
                print(summary(cells), flush=True)
    return rows


def summary(cells: Row) -> str:
    """One line of progress."""
    return (
        f"{cells['engine']:11} {cells['index']:15} {cells['setting']:31} k={cells['k']:<4}"
        f" threads={cells['threads']} p50 {cells['p50_ms']:8.2f} ms (processor "
        f"{cells['cpu_p50_ms']:.2f})  overlap {cells['overlap']:.3f}"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [spec.name for spec in ENGINES]
    data = ROOT.parent / "shared" / "data" / "cranfield"
    parser.add_argument("--data", nargs="+", type=Path, default=[data], help="BEIR-layout folders")
    parser.add_argument("--engines", nargs="+", choices=names, default=names)
    labels = sorted({label_of(build.options) for spec in ENGINES for build in spec.builds})
    parser.add_argument(
        "--indexes", nargs="+", choices=labels, metavar="NAME", help=f"only: {'; '.join(labels)}"
    )
    parser.add_argument("--k", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=20)
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="of one query")
    parser.add_argument("--build-threads", type=int, default=1)
    parser.add_argument(
        "--max-seconds", type=float, default=20, help="per setting and k, after a first full pass"
    )
    parser.add_argument("--model", default="tartan-minilm")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "bench")
    own = [spec.name for spec in ENGINES if spec.environment is None]
    parser.add_argument("--rebuild", nargs="*", choices=names, default=own)
    parser.add_argument(
        "--built", action="store_true", help="build nothing but what --rebuild names"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--theme", default="peers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
