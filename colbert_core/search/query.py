"""Checking a query matrix before any work is done."""

from __future__ import annotations

from typing import Any

import numpy as np

from colbert_core.errors import QueryError
from colbert_core.types import F32, MAX_QUERY_TOKENS

# Rotated, 1,024 dimensions of it stay within the ±1e6 that the kernels take.
MAX_QUERY_VALUE = 1e4


def check_query(query: Any, dim: int) -> F32:
    """A query as a contiguous float32 [L, D].

    Raises:
        QueryError: it is not a matrix of numbers within ±MAX_QUERY_VALUE with 1 to 1,024 rows of
            `dim` columns.
    """
    try:
        Q_LD = np.ascontiguousarray(query, np.float32)
    except (TypeError, ValueError) as error:
        raise QueryError(f"the query is not an array of numbers: {error}") from error
    if Q_LD.ndim != 2:
        raise QueryError(f"the query has shape {Q_LD.shape}; give one matrix [query tokens, {dim}]")
    tokens, columns = Q_LD.shape
    if not 1 <= tokens <= MAX_QUERY_TOKENS:
        raise QueryError(f"the query has {tokens} tokens; give 1 to {MAX_QUERY_TOKENS:,}")
    if columns != dim:
        raise QueryError(
            f"the query's vectors have {columns} dimensions and the index has {dim}: "
            "encode the query with the model that the index was built with"
        )
    if not np.abs(Q_LD).max() <= MAX_QUERY_VALUE:  # also where it is NaN
        raise _value_error(Q_LD)
    return Q_LD


def _value_error(Q_LD: F32) -> QueryError:
    """What is wrong with the values of a query that holds NaN, infinity or more than the limit."""
    infinite_L = ~np.isfinite(Q_LD).all(axis=1)
    if infinite_L.any():
        bad = int(infinite_L.argmax())
        return QueryError(f"query token {bad} holds NaN or infinity; check the model's output")
    largest_L = np.abs(Q_LD).max(axis=1)
    bad = int((largest_L > MAX_QUERY_VALUE).argmax())
    return QueryError(
        f"query token {bad} holds {largest_L[bad]:g}, beyond {MAX_QUERY_VALUE:g}: "
        "give vectors of unit length, as the index has"
    )
