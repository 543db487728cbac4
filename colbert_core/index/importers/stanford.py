"""Indexes of Stanford ColBERT (colbert-ai 0.2, PLAID).

metadata.json                    the configuration (`config`), `num_chunks`, counts
I.metadata.json                  the counts of a chunk
doclens.I.json                   tokens of each passage of chunk I
I.codes.pt, I.residuals.pt       int32 [T], uint8 [T, B]
centroids.pt, buckets.pt         float16 [C, D]; (cutoffs, weights)
ivf.pid.pt                       (passages int32, lengths int64 [C]); zeros may follow the lists
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from colbert_core.errors import IndexCorrupt
from colbert_core.index.importers.source import (
    Chunk,
    Source,
    read_count,
    read_doclens,
    read_json,
    stated_counts,
)
from colbert_core.index.importers.torch_file import read_torch
from colbert_core.types import AnyArray

NAME = "stanford"
_SETTINGS = (
    "checkpoint",
    "query_maxlen",
    "doc_maxlen",
    "mask_punctuation",
    "attend_to_mask_tokens",
    "pool_factor",
    "similarity",
)


def is_stanford(path: Path) -> bool:
    """Whether a folder looks like one."""
    return (path / "centroids.pt").is_file()


def open_stanford(path: Path) -> Source:
    """Open an index of Stanford ColBERT.

    Raises:
        IndexCorrupt: a file is missing or damaged.
    """
    about = read_json(path / "metadata.json")
    config = about.get("config") if isinstance(about, dict) else None
    if not isinstance(config, dict):
        raise IndexCorrupt(f"{path / 'metadata.json'}: it has no `config`")
    chunks = read_count(about, "num_chunks", path / "metadata.json")
    cutoffs, weights = _pair(path / "buckets.pt")
    return Source(
        path=path,
        format=NAME,
        bits=read_count(config, "nbits", path / "metadata.json"),
        centroids_CD=_array(read_torch(path / "centroids.pt"), path / "centroids.pt"),
        cutoffs=np.array(cutoffs, np.float32),
        weights=np.array(weights, np.float32),
        doclens=[read_doclens(path / f"doclens.{i}.json") for i in range(chunks)],
        open_chunk=lambda i: _chunk(path, i),
        ivf=_pair(path / "ivf.pid.pt") if (path / "ivf.pid.pt").is_file() else None,
        stated=stated_counts(about, tokens="num_embeddings", centroids="num_partitions"),
        settings={key: config[key] for key in _SETTINGS if config.get(key) is not None},
    )


def _chunk(path: Path, number: int) -> Chunk:
    names = [path / f"{number}.{part}.pt" for part in ("codes", "residuals")]
    return Chunk(*(_array(read_torch(name), name) for name in names))


def _pair(path: Path) -> tuple[AnyArray, AnyArray]:
    value = read_torch(path)
    if not isinstance(value, tuple) or len(value) != 2:
        raise IndexCorrupt(f"{path}: it is not a pair of tensors")
    return _array(value[0], path), _array(value[1], path)


def _array(value: Any, path: Path) -> AnyArray:
    if not isinstance(value, np.ndarray):
        raise IndexCorrupt(f"{path}: it is not a tensor")
    return value
