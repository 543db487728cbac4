"""Holds the writers of `index_writers.py` to the indexes that the peers built themselves.

    .venv/bin/python benchmarks/peers/shared_check.py build/bench/cranfield-128

Every peer's own index in the folder is read, its centroids, codes and residuals go through our
writer, and the files must come out the same: byte for byte, or with the same contents where a file
carries a name, a path or a time. Then the engine searches both, and must find the same.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from adapter import Vectors
from engines import ENGINES, Build, EngineSpec, runs
from index_writers import WRITERS
from launch import Bench
from shared_index import NOTE, ROOT
from shared_tokens import SharedTokens

K = 100
QUERIES = 20
UNSTEADY = ("created_at", "num_embeddings_est", "avg_doclen_est")
"""The time of building, and guesses from a sample."""


def main() -> None:
    """Check every index that a peer built; exit 1 where one comes out otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    work = parser.parse_args().work.resolve()
    bench = Bench(ROOT, work, threads=1, warmup=0, passes=1, max_seconds=0)
    wrong = 0
    for spec in ENGINES:
        for build in spec.builds if spec.name in WRITERS else ():
            index = bench.index(spec, build.options)
            record = index.with_name(f"{index.name}.build.json")
            if record.exists() and json.loads(record.read_text()).get("note") != NOTE:
                wrong += not check(bench, spec, build)
    raise SystemExit(1 if wrong else 0)


def check(bench: Bench, spec: EngineSpec, build: Build) -> bool:
    """Whether one index comes out of our writer as the engine wrote it, and is searched alike."""
    own = bench.index(spec, build.options)
    shared = READERS[spec.name](own, np.diff(Vectors.load(bench.work).offsets))
    with tempfile.TemporaryDirectory() as folder:
        theirs = beside(bench.work, Path(folder, "theirs"))
        theirs.index(spec, build.options).symlink_to(own)
        ours = beside(bench.work, Path(folder, "ours"))
        written = ours.index(spec, build.options)
        written.mkdir()
        WRITERS[spec.name](shared, written)
        same = compare(own, written)
        wanted = [run for run in runs(build, [K]) if run.default]
        found = [
            one.search(spec, build.options, wanted, threads=1, together=[])["runs"][0]["top"]
            for one in (theirs, ours)
        ]
    hits = sum(a == b for a, b in zip(*found, strict=True))
    print(
        f"  the top {K} are the same, in order, for {hits} of {len(found[0])} queries", flush=True
    )
    return same and hits == len(found[0])


def beside(work: Path, folder: Path) -> Bench:
    """A cache folder with the same passages and a few of the queries, but no indexes."""
    folder.mkdir()
    for name in ("tokens.npy", "doclens.npy"):
        (folder / name).symlink_to(work / name)
    lengths = np.load(work / "query_lengths.npy")[:QUERIES]
    np.save(folder / "query_lengths.npy", lengths)
    np.save(folder / "queries.npy", np.load(work / "queries.npy")[: lengths.sum()])
    return Bench(ROOT, folder, threads=1, warmup=0, passes=1, max_seconds=0)


def compare(own: Path, ours: Path) -> bool:
    """Print how the files of two folders differ; whether they hold the same."""
    names = sorted({path.name for folder in (own, ours) for path in folder.iterdir()})
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(_difference(own / name, ours / name), []).append(name)
    print(own.name)
    for how, files in alike.items():
        shown = f"{len(files)} files" if how == "same bytes" else ", ".join(files)
        print(f"  {how}: {shown}")
    return set(alike) <= {"same bytes", "same contents"}


def _difference(own: Path, ours: Path) -> str:
    if not ours.exists() or not own.exists():
        return "missing" if own.exists() else "too much"
    if own.read_bytes() == ours.read_bytes():
        return "same bytes"
    if own.suffix == ".json":
        same = _within(json.loads(ours.read_text()), json.loads(own.read_text()))
    elif own.suffix == ".pt":
        same = _equal(torch.load(own), torch.load(ours))
    else:
        same = False
    return "same contents" if same else "differs"


def _within(ours: Any, own: Any) -> bool:
    """Whether all that `ours` says stands in `own` too, which may say more."""
    if isinstance(ours, dict):
        return all(
            key in own and (key in UNSTEADY or _within(value, own[key]))
            for key, value in ours.items()
        )
    return bool(ours == own)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a.dtype == b.dtype and torch.equal(a, b)


def read_colbert(index: Path, doclens_N: np.ndarray) -> SharedTokens:
    """colbert-ai's own index."""
    bits, chunks = _about(index)

    def of(name: str) -> Any:
        return torch.load(index / f"{name}.pt")

    cutoffs, weights = of("buckets")
    return SharedTokens(
        bits=bits,
        centroids_CD=of("centroids").numpy(),
        cutoffs=cutoffs.numpy(),
        weights=weights.numpy(),
        avg_residual_D=of("avg_residual").reshape(1).numpy(),
        threshold=np.zeros((), np.float32),
        codes_T=torch.cat([of(f"{chunk}.codes") for chunk in chunks]).numpy(),
        residuals_TB=torch.cat([of(f"{chunk}.residuals") for chunk in chunks]).numpy(),
        doclens_N=doclens_N,
    )


def read_npy(index: Path, doclens_N: np.ndarray) -> SharedTokens:
    """fast-plaid's or xtr-warp-rs's own index."""
    bits, chunks = _about(index)

    def of(name: str) -> np.ndarray:
        array: np.ndarray = np.load(index / f"{name}.npy")
        return array

    def rows(name: str) -> np.ndarray:
        if (index / f"merged_{name}.npy").exists():
            return of(f"merged_{name}")[: doclens_N.sum()]
        return np.concatenate([of(f"{chunk}.{name}") for chunk in chunks])

    return SharedTokens(
        bits=bits,
        centroids_CD=of("centroids"),
        cutoffs=of("bucket_cutoffs"),
        weights=of("bucket_weights"),
        avg_residual_D=of("avg_residual"),
        threshold=of("cluster_threshold").reshape(()),
        codes_T=rows("codes"),
        residuals_TB=rows("residuals"),
        doclens_N=doclens_N,
    )


def _about(index: Path) -> tuple[int, range]:
    about = json.loads((index / "metadata.json").read_text(encoding="utf-8"))
    return about.get("nbits") or about["config"]["nbits"], range(about["num_chunks"])


READERS: dict[str, Callable[[Path, np.ndarray], SharedTokens]] = {
    "colbert-ai": read_colbert,
    "fast-plaid": read_npy,
    "xtr-warp-rs": read_npy,
}

if __name__ == "__main__":
    main()
