"""The vectors that all engines get: made once by our encoder, kept as fp16 in the cache folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from collection import Collection
from numpy.lib.format import open_memmap

PASSAGES_AT_ONCE = 512
PCA_SAMPLE = 1024


def make_vectors(collection: Collection, folder: Path, *, model: str, dim: int) -> None:
    """Encode passages and queries into `folder`, unless it already holds them.

    A model whose vectors are longer than `dim` is reduced by PCA fitted on a sample of passages,
    as `tartan index build --dim` does.

    Files: `tokens.npy` float16 [T, D], `doclens.npy` int32 [N], `queries.npy` float16 [ΣL, D],
    `query_lengths.npy` int32, `about.json`.
    """
    about = {
        "model": model,
        "dim": dim,
        "collection": collection.name,
        "passages": len(collection.passages),
        "queries": [query_id for query_id, _ in collection.queries],
    }
    if (folder / "about.json").exists():
        known = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        if {key: known.get(key) for key in about} == about:
            return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").unlink(missing_ok=True)
    from colbert_core.text import Encoder, fit_pca

    encoder = Encoder.load(model)
    texts = [text for _, text in collection.passages]
    if encoder.dim > dim:
        step = max(1, len(texts) // PCA_SAMPLE)
        sample = encoder.encode_passages(texts[::step]).vectors_TD
        encoder = encoder.project(fit_pca(sample, dim))
    parts, lengths, truncated = [], [], 0
    for start in range(0, len(texts), PASSAGES_AT_ONCE):
        encoded = encoder.encode_passages(texts[start : start + PASSAGES_AT_ONCE])
        parts.append(encoded.vectors_TD.astype(np.float16))
        lengths.append(encoded.doclens_N)
        truncated += int(encoded.truncated_N.sum())
        print(f"encoded {start + len(encoded.doclens_N):,} of {len(texts):,}", flush=True)
    _write_tokens(folder / "tokens.npy", parts)
    np.save(folder / "doclens.npy", np.concatenate(lengths).astype(np.int32))
    queries = encoder.encode_queries([text for _, text in collection.queries])
    np.save(folder / "queries.npy", np.concatenate(queries).astype(np.float16))
    np.save(folder / "query_lengths.npy", np.array([len(q) for q in queries], np.int32))
    about |= {
        "identity": encoder.identity.to_dict(),
        "tokens": int(sum(len(part) for part in parts)),
        "truncated": truncated,
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _write_tokens(path: Path, parts: list[np.ndarray]) -> None:
    total = sum(len(part) for part in parts)
    out = open_memmap(path, mode="w+", dtype=np.float16, shape=(total, parts[0].shape[1]))
    at = 0
    for part in parts:
        out[at : at + len(part)] = part
        at += len(part)
    out.flush()
