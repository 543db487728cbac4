"""What an index job takes: memory at 10 k, 100 k and 1 M short passages; speed by workers.

    .venv/bin/python benchmarks/index_job.py
    .venv/bin/python benchmarks/index_job.py --scaling ../shared/data/scifact

The real command, `tartan index build`, in a process of its own, with a Ray and workers of its own.
`short_passages.py` says what the passages and the model of the first are; the second takes a real
corpus and a real model. `watch.py` says what is sampled.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from machine import busy, machine
from report.index_job import growth_of, memory_markdown, scaling_markdown
from report.plots import plot_memory
from report.write import SCHEMA, write
from short_passages import DIM, LENGTHS, write_corpus, write_model
from watch import Watched

from colbert_core.text.corpus import read_corpus

ROOT = Path(__file__).resolve().parents[1]
_PRODUCTS = """
import numpy as np, sys, time
a = np.ones((512, 512), np.float32)
end = time.monotonic() + 4
done = 0
while time.monotonic() < end:
    a @ a
    done += 1
print(done)
"""


def main() -> None:
    """Measure one of the two and write the results."""
    args = arguments()
    about: dict[str, Any] = {
        "theme": "scaling" if args.scaling else "memory",
        "collection": args.scaling.name if args.scaling else "short-passages",
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "load_before": busy(),
        "tag": args.tag,
    }
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        measure = scaling if args.scaling else memory
        document = measure(Path(folder), args, about)
    about["load_after"] = busy()
    stem = f"index-job-{about['theme']}-{about['collection']}-{about['date']}{args.tag}"
    if args.scaling:
        write(args.out, stem, document, scaling_markdown(document))
    else:
        plot = plot_memory(document, args.out, stem)
        write(args.out, stem, document, memory_markdown(document, plot))


def memory(folder: Path, args: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """One build of each size; what its processes held."""
    about |= {"words": LENGTHS, "dim": DIM, "workers": args.workers[-1]}
    write_model(folder / "model")
    rows = []
    for size in args.sizes:
        corpus = folder / "corpus.jsonl"
        write_corpus(corpus, size)
        options = ["--model", str(folder / "model"), "--workers", str(about["workers"])]
        rows.append(build(corpus, folder / f"index-{size}", options, args.timeout))
        print(json.dumps(rows[-1]), flush=True)
    growth = growth_of(rows) if len(rows) > 1 else None
    return {"schema": SCHEMA, "about": about, "rows": rows, "growth": growth}


def scaling(folder: Path, args: argparse.Namespace, about: dict[str, Any]) -> dict[str, Any]:
    """Builds with each number of workers in turn; and what the processor gives at best."""
    about |= {"model": args.model, "passages": args.passages, "cores": os.cpu_count()}
    corpus = folder / "corpus.jsonl"
    with corpus.open("w", encoding="utf-8") as file:
        for document in itertools.islice(read_corpus(args.scaling), args.passages):
            passage = document.passage
            record = {"_id": passage.id, "text": passage.text}
            file.write(json.dumps(record) + "\n")
    rows = []
    for number, workers in enumerate(args.workers * args.rounds):
        before = products(workers)
        options = ["--model", args.model, "--workers", str(workers)]
        load = busy()
        row = build(corpus, folder / f"index-{number}", options, args.timeout)
        rows.append(row | {"products_per_s": before, "load": load})
        print(json.dumps(rows[-1]), flush=True)
    return {"schema": SCHEMA, "about": about, "rows": rows}


def products(processes: int) -> float:
    """Matrix products a second that so many processes do together, each on one thread."""
    command = [sys.executable, "-c", _PRODUCTS]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(processes)
    ]
    return sum(int(process.communicate()[0]) for process in started) / 4


def build(corpus: Path, out: Path, options: list[str], timeout_s: float) -> dict[str, Any]:
    """One `tartan index build`, watched; its report and its memory.

    Raises:
        RuntimeError: it failed; the message has what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = ["index", "build", str(corpus), "--out", str(out), "--json", *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.cli", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watched = Watched(process)
    watched.until_the_end(timeout_s)
    assert process.stdout is not None
    said = process.stdout.read()
    if process.returncode:
        raise RuntimeError("\n".join(watched.said[-20:]))
    report = json.loads(said)
    kept = ("passages", "tokens", "centroids", "dim", "shards", "workers", "seconds")
    row = {name: report[name] for name in kept}
    return row | {
        "corpus_bytes": corpus.stat().st_size,
        "worker_cpu_s": watched.worker_cpu_s("sample", "encode"),
        "memory": watched.summary(),
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--scaling", type=Path, help="a corpus; measure speed and not memory")
    parser.add_argument("--passages", type=int, default=2000, help="of that corpus")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="builds with each of --workers")
    parser.add_argument("--model", default="minilm-untrained", help="for --scaling")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds of a build")
    parser.add_argument("--tag", default="", help="ends the names of the results")
    parser.add_argument("--work", type=Path, help="for the corpus and index: 1 GB at a million")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
