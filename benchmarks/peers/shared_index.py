"""Gives peers the same centroids, codes and residuals instead of hours of each one's k-means.

    .venv/bin/python benchmarks/peers/shared_index.py build/bench/acl-anthology-128 --bits 4 2

The folder is the cache of a collection whose vectors `bench.py` made. The indexes go where
`bench.py --built` looks for them, with a record that says that they were written, not built, so
that no report shows seconds of building for them. An index that an engine built itself is never
replaced: remove it and its .build.json first.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from adapter import Vectors
from engines import ENGINES
from index_writers import WRITERS
from launch import Bench
from shared_tokens import SharedTokens, load, make

ROOT = Path(__file__).resolve().parents[2]
NOTE = "not built: written from the centroids, codes and residuals that all engines share"


def main() -> None:
    """Make what is shared, then every engine's index at every width."""
    args = arguments()
    vectors = Vectors.load(args.work)
    folder = args.work / "shared"
    if not all(is_made(folder, args.work, bits) for bits in args.bits):
        part = empty(folder)
        make(vectors, part, args.bits, args.centroids)
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    doclens_N = np.diff(vectors.offsets)
    bench = Bench(ROOT, args.work, threads=1, warmup=0, passes=1, max_seconds=0)
    for bits in args.bits:
        shared = load(folder, doclens_N, bits)
        for spec in ENGINES:
            if spec.name in args.engines:
                place(shared, spec.name, bench.index(spec, {"bits": bits}))


def is_made(folder: Path, work: Path, bits: int) -> bool:
    """Whether `folder` holds the present vectors, compressed at this width."""
    residuals = folder / f"residuals-{bits}.npy"
    made = (work / "tokens.npy").stat().st_mtime
    return residuals.exists() and residuals.stat().st_mtime > made


def empty(folder: Path) -> Path:
    """An empty folder beside `folder`, to be renamed when it is whole."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    return part


def place(shared: SharedTokens, engine: str, index: Path) -> None:
    """Write one index, whole or not at all, and its record.

    Raises:
        SystemExit: the engine's own index, or a part of it, is there.
    """
    record = index.with_name(f"{index.name}.build.json")
    written = record.exists() and json.loads(record.read_text(encoding="utf-8")).get("note") == NOTE
    if index.exists() and not written:
        raise SystemExit(f"{index} was not written by this script: remove it and {record.name}")
    part = empty(index)
    WRITERS[engine](shared, part)
    record.unlink(missing_ok=True)
    shutil.rmtree(index, ignore_errors=True)
    part.rename(index)
    record.write_text(json.dumps({"note": NOTE}), encoding="utf-8")
    print(f"wrote {index}", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path, help="folder with tokens.npy and doclens.npy")
    parser.add_argument("--engines", nargs="+", choices=list(WRITERS), default=list(WRITERS))
    parser.add_argument("--bits", nargs="+", type=int, default=[4, 2])
    parser.add_argument("--centroids", type=Path, help="ready centroids [C, D] in a .npy file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
