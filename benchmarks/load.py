"""Throughput and latency of a serving cluster against offered load, up to and past saturation.

    .venv/bin/python benchmarks/load.py INDEX --queries ../shared/data/scifact/queries.jsonl

A real `tartan serve` with replicas, asked by an open loop in this process (loadgen/open_loop.py
says what that is) with the vectors of the queries, made into messages beforehand. Every answer is
compared with the same index searched in this process, ids and scores to the bit. Goodput counts
right answers within the deadline.

Where saturation is, is found first, by a closed loop; then loads of so many times that are offered.
Past it, once as clients of ours offer them, which hold back where most is refused
(cluster/client_throttle.py), and once as clients would that never do.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from loadgen.closed_loop import saturation
from loadgen.open_loop import RIGHT, offer
from loadgen.prepared import PreparedQueries
from loadgen.served import serving
from loadgen.truth import Truth, varied
from machine import busy, machine
from report.load import load_markdown, plot_load
from report.write import SCHEMA, write

from cluster.client_throttle import Throttle
from colbert_core.api import Index
from colbert_core.types import F32
from workers.heap import freeze_heap

LOADS = (0.25, 0.5, 0.7, 0.85, 1.0, 1.25, 1.5, 2.0, 3.0)
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure, write the results, and fail where a claim does not hold."""
    args = arguments()
    queries = varied(query_vectors(args.index, args.queries), args.distinct)
    truth = Truth(args.k)
    truth.learn(args.index, queries)
    about: dict[str, Any] = {
        "collection": args.index.stem,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": busy(),
        "index": index_figures(args.index),
        "set": args.set,
        **{name: getattr(args, name) for name in ("k", "seconds", "deadline_s", "distinct")},
    }
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        options = [f"--replicas={args.replicas}", *(f"--set={one}" for one in args.set)]
        with serving(args.index, options, log) as served:
            about["replicas"] = args.replicas
            rows = asyncio.run(sweep(served.address, queries, truth, args))
    about["load_after"] = busy()
    document = {"schema": SCHEMA, "about": about, "rows": rows, "verdict": verdict(rows)}
    stem = f"load-{about['collection']}-{about['date']}{args.tag}"
    write(args.out, stem, document, load_markdown(document, plot_load(document, args.out, stem)))
    sys.exit(0 if document["verdict"]["holds"] else 1)


def query_vectors(index: Path, queries: Path) -> list[F32]:
    """The queries of a BEIR folder, encoded by the index's own model."""
    texts = [json.loads(line)["text"] for line in queries.read_text().splitlines()]
    return Index.open(index).encoder.encode_queries(texts)


def index_figures(index: Path) -> dict[str, Any]:
    """What is searched."""
    opened = Index.open(index)
    return {"passages": len(opened), "shards": len(opened.manifest.shards), "dim": opened.dim}


async def sweep(
    address: str, queries: list[F32], truth: Truth, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Saturation, then each load, with a pause in between."""
    async with PreparedQueries(address, queries, args.k) as ask:
        freeze_heap()
        capacity = await saturation(ask, len(queries), seconds=args.seconds, at_once=args.closed)
        print(f"saturation: {capacity:.0f} queries a second", flush=True)
        rows = []
        loads = [
            (load, own) for load in args.loads for own in ((True, False) if load > 1 else (True,))
        ]
        for load, own in loads:
            ask.throttle = Throttle() if own else None
            offered = await offer(
                ask,
                len(queries),
                truth,
                rate=load * capacity,
                seconds=args.seconds,
                timeout_s=args.deadline_s,
                seed=args.loads.index(load),
            )
            rows.append({"load": load, "holds_back": own, **offered.summary()})
            print(json.dumps(rows[-1]), flush=True)
            await asyncio.sleep(1.0)  # what is still under way is done
        return rows


def verdict(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The claims: nothing wrong, and past saturation at least 80 % of the best goodput."""
    peak = max(row["goodput"] for row in rows)
    wrong = sum(count for row in rows for kind, count in row["kinds"].items() if not _refusal(kind))
    kept, kept_from_any = (
        round(min((row["goodput"] for row in rows if _past(row, own)), default=peak) / peak, 3)
        for own in (True, False)
    )
    return {
        "peak": peak,
        "kept": kept,
        "kept_from_any": kept_from_any,
        "wrong": wrong,
        "holds": kept >= 0.8 and not wrong,
    }


def _past(row: dict[str, Any], own: bool) -> bool:
    return bool(row["load"] > 1.0 and row["holds_back"] is own)


def _refusal(kind: str) -> bool:
    return kind in (RIGHT, "Overloaded", "HeldBack", "DeadlineExceeded", "Unavailable")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path)
    parser.add_argument("--queries", type=Path, required=True, help="queries.jsonl")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS, help="of saturation")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each load")
    parser.add_argument("--deadline", dest="deadline_s", type=float, default=1.0)
    parser.add_argument("--distinct", type=int, default=2000, help="queries")
    parser.add_argument("--closed", type=int, default=8, help="that find saturation")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE, as of tartan serve")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--tag", default="", help="end of the files' names")
    return parser.parse_args()


if __name__ == "__main__":
    main()
