"""How much work a query does: one knob, `recall`, or the raw numbers.

Where a request names a recall, the presets that were measured on the index (`calibrate.py`) say
what it takes, and what lies between them is interpolated: margins over the logarithm of the share
that may be missed, in which they grow evenly; probes, candidates and what scoring may miss by their
logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np

from colbert_core.errors import QueryError
from colbert_core.index.presets import COMMON_SPREAD, Preset, kept_for, missed_for
from colbert_core.types import MAX_K, SearchParams

DEFAULT_RECALL = 0.99

COMMON_PRESETS = tuple(
    Preset(
        recall, 10, 16, 1024, 512, margin, missed_for(recall), COMMON_SPREAD, kept_for(recall), 0
    )
    for recall, margin in (
        (0.80, 0.077),
        (0.90, 0.113),
        (0.95, 0.148),
        (0.98, 0.177),
        (0.99, 0.203),
    )
)
"""For an index without presets of its own, because it is small: the mean margins of five."""

SCORED_PER_HIT, SCORED_BESIDE = 3, 48
"""What raw candidates are cut to by centroid interaction; docs/decisions/search.md measures it."""

_COLUMNS: tuple[Callable[[Preset], float], ...] = (
    lambda preset: math.log(preset.nprobe),
    lambda preset: math.log(preset.candidates),
    lambda preset: math.log(preset.scored),
    lambda preset: preset.margin,
    lambda preset: math.log(preset.missed),
    lambda preset: preset.spread,
)


def derive_params(
    k: int,
    *,
    presets: Sequence[Preset] = (),
    recall: float | None = None,
    nprobe: int | None = None,
    candidates: int | None = None,
    scored: int | None = None,
    exact: bool = False,
) -> SearchParams:
    """The parameters of one request.

    Args:
        k: hits asked for, 1 to 10,000.
        presets: of the index; empty for one that has none.
        recall: the share of the exact top k to be found, above 0 and at most 1. Above the highest
            preset it means exact; below the lowest it means that one.
        nprobe: centroids probed per query token; replaces what `recall` chooses.
        candidates: passages of each shard compared by centroid interaction; replaces what `recall`
            chooses, and then none of them is left out for being far behind.
        scored: passages of each shard scored precisely, the best by centroid interaction; 0 leaves
            ranking and scores to the centroids. Where it or `candidates` is given, scoring does
            not end before; 3k + 48 where `candidates` is given alone.
        exact: score every passage.

    Raises:
        QueryError: a value is out of its range.
    """
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K:
        raise QueryError(f"k is {k!r}; ask for 1 to {MAX_K:,} hits")
    target = DEFAULT_RECALL if recall is None else recall
    if not 0.0 < target <= 1.0:
        raise QueryError(f"recall is {recall}; give a share above 0 and at most 1 (1 is exact)")
    for name, value, least in (
        ("nprobe", nprobe, 1),
        ("candidates", candidates, 1),
        ("scored", scored, 0),
    ):
        if value is not None and value < least:
            raise QueryError(f"{name} is {value}; give {least} or more, or leave it out")
    raw = (nprobe, candidates, scored) != (None, None, None)
    table = presets or COMMON_PRESETS
    highest = max(preset.recall for preset in table)
    if exact or (target > highest + 1e-9 and not raw):
        return SearchParams(k, 0, 0, 0, exact=True)
    chosen = _chosen(table, k, min(target, highest))
    if nprobe is not None:
        chosen = replace(chosen, nprobe=nprobe)
    if candidates is not None:
        most = SCORED_PER_HIT * k + SCORED_BESIDE
        chosen = replace(chosen, candidates=max(k, candidates), margin=None, scored=most)
    if scored is not None:
        chosen = replace(chosen, scored=max(k, scored) if scored else 0)
    if candidates is not None or scored is not None:
        chosen = replace(chosen, missed=None, spread=0.0)
    return chosen


def deriving(presets: Sequence[Preset]) -> Callable[..., SearchParams]:
    """`derive_params` with the presets of one index. To interpolate takes a tenth of what a quick
    search does, and requests repeat: what was derived is kept."""
    return lru_cache(256, typed=True)(partial(derive_params, presets=presets))


def _chosen(presets: Sequence[Preset], k: int, recall: float) -> SearchParams:
    """What the presets say, interpolated over recall, then over k."""
    ks = sorted({preset.k for preset in presets})
    rows = [_at_recall([one for one in presets if one.k == known], recall) for known in ks]
    nprobe, candidates, scored, margin, missed, spread = _interpolate(
        math.log(k), [math.log(known) for known in ks], rows
    )
    beyond = max(1.0, k / ks[-1])  # what is kept grows with k; the probes are enough or nearly so
    return SearchParams(
        k,
        round(math.exp(nprobe)),
        max(k, math.ceil(beyond * math.exp(candidates) - 1e-6)),
        max(k, math.ceil(beyond * math.exp(scored) - 1e-6)),
        margin=round(margin, 4),
        missed=round(math.exp(missed), 4),
        spread=round(spread, 4),
    )


def _at_recall(presets: Sequence[Preset], recall: float) -> list[float]:
    rows = sorted(presets, key=lambda preset: preset.recall)
    values = [[column(preset) for column in _COLUMNS] for preset in rows]
    return _interpolate(_nines(recall), [_nines(preset.recall) for preset in rows], values)


def _interpolate(x: float, at: list[float], rows: list[list[float]]) -> list[float]:
    return [float(np.interp(x, at, column)) for column in zip(*rows, strict=True)]


def _nines(recall: float) -> float:
    return -math.log1p(-recall)
