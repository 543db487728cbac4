"""Searching documents in windows: hits are documents, each by its best window.

Windows of one document may take any number of the best places. So more windows than hits are asked
for, and twice as many again until there are k documents or nothing is left: what follows the k-th
document scores less than it, and no document is missed for another's windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from colbert_core.types import AnyArray, Bool, SearchParams, ShardTopK

FIRST = 2
"""Windows asked for at first, for each hit."""


def best_windows(
    search: Callable[[SearchParams], ShardTopK],
    params: SearchParams,
    documents_N: AnyArray,
    live_windows: int,
    live_documents: int,
) -> ShardTopK:
    """The best k documents of a shard, as their best windows.

    Args:
        search: the best windows of the shard, with given parameters.
        params: of the request; k counts documents.
        documents_N: [N], the first window of each passage's document.
        live_windows, live_documents: how many may be found.
    """
    wanted = min(params.k, live_documents)
    depth = params.k
    while True:
        depth = min(FIRST * depth, max(live_windows, params.k))
        found = search(_deeper(params, depth))
        keep = _first_of_each(documents_N[found.pids_K])
        if int(keep.sum()) >= wanted or depth >= live_windows:
            pids, scores = found.pids_K[keep][: params.k], found.scores_K[keep][: params.k]
            return ShardTopK(pids, scores, found.touched, found.scored)


def _deeper(params: SearchParams, depth: int) -> SearchParams:
    """The same for `depth` hits."""
    if params.exact:
        return replace(params, k=depth)
    return replace(
        params,
        k=depth,
        candidates=max(params.candidates, depth),
        scored=max(params.scored, depth) if params.scored else 0,
    )


def _first_of_each(values: AnyArray) -> Bool:
    """Where a value stands for the first time."""
    keep = np.zeros(len(values), bool)
    keep[np.unique(values, return_index=True)[1]] = True
    return keep
