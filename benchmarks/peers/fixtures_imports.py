"""Make the import fixtures: tiny indexes that colbert-ai and fast-plaid really write.

    .venv-peers/colbert/bin/python benchmarks/peers/fixtures_imports.py stanford OUT_FOLDER
    .venv-peers/plaid/bin/python benchmarks/peers/fixtures_imports.py fast-plaid OUT_FOLDER

Random unit vectors in place of a model's. Every case has `index/`, as the engine left it, and
`expected.npz`: queries, and what the engine itself finds with settings that leave nothing out.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from adapter import Vectors

PASSAGES = 40
QUERIES = 6
K = 10
MACHINE_KEYS = ("index_path", "root", "name", "experiment", "rank", "nranks", "gpus")


def main(engine: str, out: Path) -> None:
    """Write the cases of one engine below `out`."""
    if engine == "stanford":
        os.chdir(tempfile.gettempdir())  # colbert-ai asks git about the working directory
        for bits, dim in ((1, 16), (2, 16), (4, 32)):
            stanford(out / f"stanford-{bits}", random_vectors(dim, seed=bits), bits)
    else:
        for bits, dim in ((2, 16), (4, 32)):
            fast_plaid(out / f"fast-plaid-{bits}", random_vectors(dim, seed=10 + bits), bits)
        fast_plaid_changed(out / "fast-plaid-changed", random_vectors(16, seed=20))


def random_vectors(dim: int, seed: int) -> Vectors:
    """Passages of one to nine unit vectors around a few directions, and queries like them."""
    rng = np.random.default_rng(seed)
    topics = unit(rng.standard_normal((24, dim)))
    lengths = rng.integers(1, 10, PASSAGES)
    near = topics[rng.integers(len(topics), size=int(lengths.sum()))]
    tokens = unit(near + 0.25 * rng.standard_normal(near.shape)).astype(np.float16)
    queries = unit(
        topics[rng.integers(len(topics), size=(QUERIES, 4))]
        + 0.2 * rng.standard_normal((QUERIES, 4, dim))
    )
    return Vectors(
        tokens=tokens,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        queries=list(queries.astype(np.float16).astype(np.float32)),
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """`rows` with L2 norm 1 each."""
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def stanford(case: Path, vectors: Vectors, bits: int) -> None:
    """colbert-ai's own indexer and searcher."""
    import torch
    from colbert.infra import ColBERTConfig
    from engine_colbert import ColbertAI

    index = fresh(case)
    ColbertAI().build(vectors, index, {"bits": bits})
    searcher = ColbertAI()
    searcher.open(index)
    found = []
    for query in vectors.queries:
        config = ColBERTConfig.from_existing(searcher.config)
        config.configure(
            query_maxlen=len(query),
            ncells=len(searcher.ranker.codec.centroids),
            centroid_score_threshold=-1.0,
            ndocs=4 * PASSAGES,
        )
        pids, scores = searcher.ranker.rank(config, torch.from_numpy(query).unsqueeze(0))
        found.append((list(pids)[:K], list(scores)[:K]))
    save(case, vectors.queries, found)
    for path in (index / "metadata.json", index / "plan.json"):
        about = json.loads(path.read_text(encoding="utf-8"))
        for key in MACHINE_KEYS:
            about["config"].pop(key, None)
        path.write_text(json.dumps(about, indent=4), encoding="utf-8")


def fast_plaid(case: Path, vectors: Vectors, bits: int) -> None:
    """Its `create` and `search`."""
    engine = created(case, vectors, range(PASSAGES), bits, None)
    finish(case, engine, vectors)


def fast_plaid_changed(case: Path, vectors: Vectors) -> None:
    """Created with metadata, then ten passages added far from all centroids, then two deleted."""
    import torch

    engine = created(case, vectors, range(30), 2, [{"row": i, "even": i % 2} for i in range(30)])
    rng = np.random.default_rng(99)
    strangers = [
        torch.from_numpy(unit(rng.standard_normal((4, 16))).astype(np.float16)) for _ in range(10)
    ]
    engine.update(
        documents_embeddings=strangers,
        metadata=[{"row": 100 + i, "even": i % 2} for i in range(10)],
        start_from_scratch=0,
        buffer_size=1,
    )
    engine.delete(subset=[3, 17])
    finish(case, engine, vectors)


def created(
    case: Path, vectors: Vectors, pids: range, bits: int, metadata: list[dict[str, Any]] | None
) -> Any:
    """A fast-plaid index of some passages."""
    import torch
    from fast_plaid.search import FastPlaid

    engine = FastPlaid(index=str(fresh(case)), device="cpu")
    engine.create(
        documents_embeddings=[torch.from_numpy(vectors.passage(pid).copy()) for pid in pids],
        nbits=bits,
        metadata=metadata,
        start_from_scratch=0,
    )
    return engine


def finish(case: Path, engine: Any, vectors: Vectors) -> None:
    """Search with everything probed and scored."""
    import torch

    index = case / "index"
    centroids = len(np.load(index / "centroids.npy"))
    found = []
    for query in vectors.queries:
        hits = engine.search(
            torch.from_numpy(query).half().unsqueeze(0),
            top_k=K,
            n_ivf_probe=centroids,
            n_full_scores=4 * PASSAGES,
            show_progress=False,
        )[0]
        found.append(([pid for pid, _ in hits], [score for _, score in hits]))
    save(case, vectors.queries, found)
    (index / "plaid.lock").unlink(missing_ok=True)


def fresh(case: Path) -> Path:
    """The empty folder of a case's index."""
    shutil.rmtree(case, ignore_errors=True)
    (case / "index").mkdir(parents=True)
    return case / "index"


def save(case: Path, queries: list[np.ndarray], found: list[tuple[list[int], list[float]]]) -> None:
    """Write `expected.npz`."""
    np.savez_compressed(
        case / "expected.npz",
        queries=np.stack(queries),
        pids=np.array([pids for pids, _ in found], np.int32),
        scores=np.array([scores for _, scores in found], np.float32),
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
