"""Load a checkpoint that training has saved, with the peers' own code, and encode texts with it.

    LIBRARY_PYTHON benchmarks/peers/fixtures_saved.py colbert|pylate FOLDER TEXTS.json

`FOLDER/checkpoint` is read, `FOLDER/LIBRARY.npz` written: vectors of queries and passages end to
end, and how many each text has, in fp32 on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

Vectors = list[np.ndarray]


def with_colbert(checkpoint: Path, texts: list[str]) -> tuple[Vectors, Vectors]:
    """Queries and passages by colbert-ai's `Checkpoint`."""
    from colbert.infra import ColBERTConfig
    from colbert.modeling.checkpoint import Checkpoint

    os.chdir(tempfile.gettempdir())  # it asks the git repository around it for its state
    settings = ColBERTConfig.load_from_checkpoint(str(checkpoint))
    model = Checkpoint(str(checkpoint), colbert_config=settings, verbose=0)
    queries, passages = [], []
    for text in texts:
        queries.append(model.query(*model.query_tokenizer.tensorize([text]))[0].numpy())
        ids, mask = model.doc_tokenizer.tensorize([text])
        passages.append(model.doc(ids, mask, keep_dims=False)[0].numpy())
    return queries, passages


def with_pylate(checkpoint: Path, texts: list[str]) -> tuple[Vectors, Vectors]:
    """Queries and passages by pylate's `ColBERT`."""
    from pylate.models import ColBERT

    model = ColBERT(str(checkpoint), device="cpu")
    return tuple(
        [model.encode([text], is_query=is_query, show_progress_bar=False)[0] for text in texts]
        for is_query in (True, False)
    )


if __name__ == "__main__":
    library, folder = sys.argv[1], Path(sys.argv[2]).resolve()
    wanted = json.loads(Path(sys.argv[3]).read_text(encoding="utf-8"))
    encode = with_colbert if library == "colbert" else with_pylate
    by_kind = dict(zip(("query", "passage"), encode(folder / "checkpoint", wanted), strict=True))
    arrays = {f"{kind}_vectors": np.concatenate(rows) for kind, rows in by_kind.items()}
    arrays |= {
        f"{kind}_lengths": np.array([len(x) for x in rows]) for kind, rows in by_kind.items()
    }
    np.savez_compressed(folder / f"{library}.npz", **arrays)
