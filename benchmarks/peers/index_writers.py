"""Writes the index files of colbert-ai 0.2.22, fast-plaid 1.7.0 and xtr-warp-rs 2.1.0.

Each writer makes in an empty folder what the engine itself leaves there after building from the
same centroids, codes and residuals; `shared_check.py` holds them to that, array for array.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from shared_tokens import SharedTokens

CHUNK = 25_000
"""Passages in a chunk of colbert-ai and of fast-plaid."""
XTR_CHUNK = 256
MERGED_HEADER = 192
"""Bytes before the data of fast-plaid's merged arrays, which it resizes in place."""


def write_colbert(shared: SharedTokens, index: Path) -> None:
    """colbert-ai: torch files, passages in chunks of 25,000."""
    import torch

    def save(value: Any, name: str) -> None:
        torch.save(value, index / f"{name}.pt")

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array))

    save(tensor(shared.centroids_CD), "centroids")
    save((tensor(shared.cutoffs), tensor(shared.weights)), "buckets")
    save(tensor(shared.avg_residual_D).mean(), "avg_residual")
    chunks = list(shared.chunks(CHUNK))
    for number, (passages, tokens) in enumerate(chunks):
        save(tensor(shared.codes_T[tokens].astype(np.int32)), f"{number}.codes")
        save(tensor(shared.residuals_TB[tokens]), f"{number}.residuals")
        doclens = shared.doclens_N[passages].tolist()
        _json(index / f"doclens.{number}.json", doclens, separators=(",", ":"))
        _json(
            index / f"{number}.metadata.json",
            {
                "passage_offset": passages.start,
                "num_passages": len(doclens),
                "num_embeddings": tokens.stop - tokens.start,
                "embedding_offset": tokens.start,
            },
            indent=4,
        )
    pids, lengths_C = shared.postings()
    longest = int(lengths_C.max())
    if lengths_C[-1] < longest:  # the last list is read as far as the longest
        pids = np.concatenate([pids, np.zeros(longest, pids.dtype)])
    save((tensor(pids), tensor(lengths_C)), "ivf.pid")
    about = {
        "config": {"dim": shared.centroids_CD.shape[1], "nbits": shared.bits},
        "num_chunks": len(chunks),
        "num_partitions": len(shared.centroids_CD),
    }
    estimate = {"num_embeddings_est": float(len(shared.codes_T)), "avg_doclen_est": _mean(shared)}
    exact = {"num_embeddings": len(shared.codes_T), "avg_doclen": _mean(shared)}
    _json(index / "plan.json", about | estimate, indent=4)
    _json(index / "metadata.json", about | exact, indent=4)


def write_fast_plaid(shared: SharedTokens, index: Path) -> None:
    """fast-plaid: its layout of a single copy, codes and residuals of all chunks merged."""
    _write_codec(shared, index, np.atleast_1d(shared.threshold))
    chunks = list(shared.chunks(CHUNK))
    rows = {}
    for number, (passages, tokens) in enumerate(chunks):
        rows[number] = tokens.stop - tokens.start
        doclens = shared.doclens_N[passages].tolist()
        _json(index / f"doclens.{number}.json", doclens, separators=(",", ":"))
        _json(
            index / f"{number}.metadata.json",
            {
                "embedding_offset": tokens.start,
                "num_documents": len(doclens),
                "num_embeddings": rows[number],
            },
            indent=2,
        )
    # It reads every passage as far as the longest: zeros stand after the last.
    padding = int(shared.doclens_N.max() - shared.doclens_N[-1])
    _write_merged(index / "merged_codes.npy", shared.codes_T, np.dtype(np.int64), padding)
    _write_merged(index / "merged_residuals.npy", shared.residuals_TB, np.dtype(np.uint8), padding)
    for name in ("codes", "residuals"):
        merged = {
            f"{number}.{name}.npy": {"rows": count, "merged": True, "mtime": None}
            for number, count in rows.items()
        }
        _json(index / f"merged_{name}.manifest.json", merged)
    pids, lengths_C = shared.postings()
    _save_tch(index / "ivf.npy", pids.astype(np.int64))
    _save_tch(index / "ivf_lengths.npy", lengths_C.astype(np.int32))
    _json(index / "plan.json", {"nbits": shared.bits, "num_chunks": len(chunks)}, indent=2)
    about = {
        "avg_doclen": _mean(shared),
        "compress_only": False,
        "nbits": shared.bits,
        "num_chunks": len(chunks),
        "num_documents": len(shared.doclens_N),
        "num_embeddings": len(shared.codes_T),
        "num_partitions": len(shared.centroids_CD),
        "frozen": True,
        "mutable": True,
    }
    _json(index / "metadata.json", about, indent=2)
    (index / "plaid.lock").touch()


def write_xtr_warp(shared: SharedTokens, index: Path) -> None:
    """xtr-warp-rs: chunks in the order of passages, and all of it again by centroid."""
    _write_codec(shared, index, shared.threshold)
    chunks = list(shared.chunks(XTR_CHUNK))
    for number, (passages, tokens) in enumerate(chunks):
        doclens = shared.doclens_N[passages].astype(np.int64)
        _save_tch(index / f"{number}.codes.npy", shared.codes_T[tokens].astype(np.int64))
        _save_tch(index / f"{number}.residuals.npy", shared.residuals_TB[tokens])
        _save_tch(index / f"doclens.{number}.npy", doclens)
        ids = np.arange(passages.start, passages.stop, dtype=np.int64)
        _save_tch(index / f"{number}.passage_ids.npy", ids)
        _json(
            index / f"{number}.metadata.json",
            {
                "embedding_offset": tokens.start,
                "num_embeddings": tokens.stop - tokens.start,
                "num_passages": len(doclens),
                "passage_offset": passages.start,
            },
            separators=(",", ":"),
        )
    _save_tch(index / "pids.npy", np.arange(len(shared.doclens_N), dtype=np.int64))
    order_T = np.argsort(shared.codes_T, kind="stable")
    sizes_C = np.bincount(shared.codes_T, minlength=len(shared.centroids_CD))
    np.save(index / "codes.compacted.npy", shared.pids()[order_T].astype(np.int64))
    np.save(index / "residuals.compacted.npy", shared.residuals_TB[order_T])
    _save_tch(index / "sizes.compacted.npy", sizes_C)
    _save_tch(index / "offsets.compacted.npy", np.concatenate([[0], np.cumsum(sizes_C)]))
    settings = {
        "codec_sample_max_tokens": 1_000_000,
        "compression_batch_size": 32_768,
        "indexing_chunk_size": XTR_CHUNK,
        "nbits": shared.bits,
    }
    plan = {
        "avg_doc_len": _mean(shared),
        "embedding_dim": shared.centroids_CD.shape[1],
        "est_total_embs": len(shared.centroids_CD),
        "n_docs": len(shared.doclens_N),
        "num_chunks": len(chunks),
    }
    _json(index / "plan.json", settings | plan, indent=2, sort_keys=True)
    _json(index / "build_state.json", {"stage": "complete"}, indent=2)
    about = {
        "num_chunks": len(chunks),
        "nbits": shared.bits,
        "num_partitions": len(shared.centroids_CD),
        "num_embeddings": len(shared.codes_T),
        "avg_doclen": _mean(shared),
        "num_passages": len(shared.doclens_N),
        "next_passage_id": len(shared.doclens_N),
        "num_centroids": len(shared.centroids_CD),
        "dim": shared.centroids_CD.shape[1],
        "created_at": datetime.now(UTC).isoformat(),
    }
    _json(index / "metadata.json", about, indent=2)


WRITERS: dict[str, Callable[[SharedTokens, Path], None]] = {
    "colbert-ai": write_colbert,
    "fast-plaid": write_fast_plaid,
    "xtr-warp-rs": write_xtr_warp,
}


def _write_codec(shared: SharedTokens, index: Path, threshold: np.ndarray) -> None:
    _save_tch(index / "centroids.npy", shared.centroids_CD)
    _save_tch(index / "bucket_cutoffs.npy", shared.cutoffs)
    _save_tch(index / "bucket_weights.npy", shared.weights)
    _save_tch(index / "avg_residual.npy", shared.avg_residual_D)
    _save_tch(index / "cluster_threshold.npy", threshold)


def _mean(shared: SharedTokens) -> float:
    return len(shared.codes_T) / len(shared.doclens_N)


def _json(path: Path, value: Any, **style: Any) -> None:
    path.write_text(json.dumps(value, **style), encoding="utf-8")


def _save_tch(path: Path, array: np.ndarray) -> None:
    """As torch's Rust binding writes .npy: a byte order even for bytes, a comma at every end."""
    shape = "".join(f"{size}," for size in array.shape)
    descr = f"<{array.dtype.kind}{array.dtype.itemsize}"
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}"
    with path.open("wb") as file:
        file.write(_prologue(header, -(-(10 + len(header) + 1) // 16) * 16))
        file.write(np.ascontiguousarray(array).data)


def _write_merged(path: Path, rows: np.ndarray, dtype: np.dtype, padding: int) -> None:
    """The rows as `dtype`, then `padding` rows of zeros, behind a header of fixed length."""
    shape = (len(rows) + padding, *rows.shape[1:])
    descr = np.lib.format.dtype_to_descr(dtype)
    with path.open("wb") as file:
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
        file.write(_prologue(header, MERGED_HEADER))
        file.write(np.ascontiguousarray(rows, dtype).data)
        file.write(np.zeros((padding, *rows.shape[1:]), dtype).data)


def _prologue(header: str, length: int) -> bytes:
    """Magic, version 1.0 and the header, padded to `length` bytes in all."""
    padded = header.ljust(length - 11).encode("ascii") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded
