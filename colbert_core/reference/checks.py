"""What the kernels refuse, and in which words; the native ones use the same."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from colbert_core.packed_ints import PackedInts
from colbert_core.types import F32, I32

MAX_MAGNITUDE = np.float32(1e6)
"""Largest |value| of a query, scale or level: keeps every score finite, whatever the data."""

LARGEST_PROBE_SCORE = np.float32(1e30)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_array(name: str, array: Any, ndim: int, *dtypes: str) -> None:
    require(
        isinstance(array, np.ndarray)
        and array.ndim == ndim
        and array.dtype.name in dtypes
        and array.flags.c_contiguous
        and array.flags.aligned,
        f"{name} must be a C-contiguous {' or '.join(dtypes)} array of {ndim} dimension(s)",
    )


def check_ends(name: str, offsets: PackedInts, last: int) -> None:
    ends = offsets[0], offsets[len(offsets) - 1]
    require(ends == (0, last), f"{name} runs from {ends[0]} to {ends[1]}, expected 0 to {last}")


def require_dim(dim: int) -> None:
    require(
        8 <= dim <= 1024 and dim % 8 == 0,
        f"dimension {dim} must be a multiple of 8 from 8 to 1024",
    )


def check_query_shape(Q_LD: F32, dim: int) -> None:
    check_array("Q_LD", Q_LD, 2, "float32")
    require(1 <= len(Q_LD) <= 1024, f"the query has {len(Q_LD)} tokens; 1 to 1024 are possible")
    require(Q_LD.shape[1] == dim, f"the query has dimension {Q_LD.shape[1]}, the index has {dim}")


def check_query(Q_LD: F32, dim: int) -> None:
    check_query_shape(Q_LD, dim)
    require(
        bool(np.all(np.abs(Q_LD) <= MAX_MAGNITUDE)),
        "query values must be numbers within ±1e6 (no NaN, no infinity)",
    )


def check_probes(ids_LP: I32, scores_LP: F32, query_tokens: int, centroids: int) -> None:
    check_array("probe_ids_LP", ids_LP, 2, "int32")
    check_array("probe_scores_LP", scores_LP, 2, "float32")
    require(
        ids_LP.shape == scores_LP.shape and len(ids_LP) == query_tokens and ids_LP.shape[1] >= 1,
        f"probe arrays have shapes {ids_LP.shape} and {scores_LP.shape}, "
        f"expected ({query_tokens}, P) with P at least 1",
    )
    require(
        bool(np.all((ids_LP >= 0) & (ids_LP < centroids))),
        f"probe_ids_LP must lie below the number of centroids, {centroids}",
    )
    require(
        bool(np.all(np.abs(scores_LP) <= LARGEST_PROBE_SCORE))
        and bool(np.all(scores_LP[:, :-1] >= scores_LP[:, 1:])),
        "probe_scores_LP must be finite and descending per query token",
    )


def check_deadline(deadline_s: float, stage: str) -> None:
    if deadline_s > 0 and time.monotonic() >= deadline_s:
        raise TimeoutError(f"the deadline passed during {stage}; allow more time or search less")


def corrupt(what: str) -> RuntimeError:
    return RuntimeError(f"corrupt shard: {what}; run `tartan index verify`")
