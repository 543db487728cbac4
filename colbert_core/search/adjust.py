"""Presets set right by what searches with them find: the last step of measuring with real queries.

A margin keeps its share of the hits, and scoring ends where it expects to miss its own; what comes
of both, and of several shards that score their k best each, is a few hundredths from what was
asked. With real queries it can be seen: of each k, what a search finds for each recall, and so
which recall to ask for to find what was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from colbert_core.hardware import processors
from colbert_core.index.presets import Preset
from colbert_core.search.merge import Merged
from colbert_core.search.params import derive_params
from colbert_core.search.searcher import Searcher
from colbert_core.types import F32, AnyArray

MOST_FOUND = 0.9995  # counted so, for the logarithm of what is missed


def adjusted(
    presets: Sequence[Preset],
    searcher: Searcher,
    queries: Sequence[F32],
    on_query: Callable[[int, int], None],
) -> tuple[Preset, ...]:
    """The presets by which these queries find what is asked, where some between the given ones do.

    Args:
        presets: as measured (`calibrate.py`).
        queries: float32 [L, D] each, in the model's space; searched for exactly.
        on_query: called with (done, total) as they are, in this thread.
    """
    ks = sorted({preset.k for preset in presets})
    shares = []
    with ThreadPoolExecutor(processors()) as pool:
        for one in pool.map(lambda query: _found(presets, ks, searcher, query), queries):
            shares.append(one)
            on_query(len(shares), len(queries))
    presets_by_k = [[one for one in presets if one.k == k] for k in ks]
    return tuple(
        preset
        for at, of_k in enumerate(presets_by_k)
        for preset in _moved(of_k, np.array([of[at] for of in shares]))
    )


def _found(
    presets: Sequence[Preset], ks: Sequence[int], searcher: Searcher, query: F32
) -> list[list[float]]:
    """Of the exact top k, the share that a search finds, by k and recall."""
    exact = _documents(searcher, searcher.search(query, derive_params(ks[-1], exact=True)))
    found = []
    for k in ks:
        wanted, shares = set(exact[:k]), []
        for recall in (one.recall for one in presets if one.k == k):
            params = derive_params(k, presets=presets, recall=recall)
            hits = _documents(searcher, searcher.search(query, params))
            shares.append(len(wanted.intersection(hits)) / len(wanted))
        found.append(shares)
    return found


def _documents(searcher: Searcher, found: Merged) -> list[tuple[int, int]]:
    """Shard and number of what was found; of a document in windows the same, whichever is found."""
    windows = [shard.windows for shard in searcher.generation.shards]
    return [
        (shard, pid if (of := windows[shard]) is None else int(of.documents_N[pid]))
        for shard, pid, _ in found.located()
    ]


def _moved(presets: Sequence[Preset], shares_QR: AnyArray) -> list[Preset]:
    """The presets of one k at the recalls that find what is asked, a standard error aside: rather
    more than less."""
    errors_R = shares_QR.std(0) / max(1, len(shares_QR) - 1) ** 0.5
    found_R = np.maximum.accumulate(shares_QR.mean(0) - errors_R)
    asked_R = np.array([preset.recall for preset in presets])
    nines_R = -np.log1p(-asked_R)
    meant_R = np.interp(nines_R, -np.log1p(-np.minimum(found_R, MOST_FOUND)), nines_R)
    return [
        _at(presets, asked, float(meant)) for asked, meant in zip(presets, meant_R, strict=True)
    ]


def _at(presets: Sequence[Preset], asked: Preset, meant: float) -> Preset:
    """What the presets of one k say of the recall that is `meant`, in −log(1 − recall), for the one
    that is asked."""
    nines = [-np.log1p(-preset.recall) for preset in presets]
    params = derive_params(asked.k, presets=presets, recall=float(-np.expm1(-meant)))
    return replace(
        asked,
        nprobe=params.nprobe,
        candidates=params.candidates,
        scored=params.scored,
        margin=params.margin or 0.0,
        missed=params.missed or asked.missed,
        spread=params.spread,
        kept=round(float(np.interp(meant, nines, [one.kept for one in presets])), 4),
        mean_scored=round(np.interp(meant, nines, [one.mean_scored for one in presets])),
    )
