"""How a shard is searched when a filter leaves a part of its passages.

What presets say was measured for a search among all. Where few passages are left, looking at every
one of them costs less than finding candidates: so few are all scored precisely, and more are all
compared by their centroids. Where many are, those that match may lie far from the query, where
scores are close together: margins are widened, and with them how many may be kept; where very few
of very many are left, their centroids may not be among those probed, and more are.
docs/decisions/filters.md measures each.
"""

from __future__ import annotations

import math
from dataclasses import replace

from colbert_core.types import SearchParams

SCORED_TOKENS = 1 << 16
"""Tokens up to which all passages that a filter leaves are scored precisely."""
COMPARED_TOKENS = 1 << 19
"""Tokens up to which they are all compared by their centroids."""
WIDEST = 1.5
"""The most that margins are widened by: where an eighth of the passages is left, or less."""
FEW = 32
"""Where no more than one passage of so many is left, twice as many centroids are probed."""


def narrowed(params: SearchParams, live: int, passages: int, tokens: int) -> SearchParams:
    """What to do in a shard where a filter leaves `live` of its passages.

    Args:
        params: of the request.
        live: passages that the filter leaves, of `passages` with `tokens` in all.

    Returns:
        An exact search, one that compares every passage that is left, or `params` with wider
        margins, and with more to probe (`nprobe`) where very few are left. A search that scores
        nothing precisely stays one, so that the scores of shards can be compared.
    """
    if params.exact or live in (0, passages):
        return params
    left = live * tokens / passages
    if left <= SCORED_TOKENS and params.scored:
        return SearchParams(params.k, 0, 0, 0, exact=True)
    params = _wider(params, min(WIDEST, 1 + (WIDEST - 1) * math.log2(passages / live) / 3))
    if left <= COMPARED_TOKENS:
        return replace(params, candidates=max(params.k, live), margin=None)
    if live * FEW <= passages and params.margin is not None:
        return replace(params, nprobe=2 * params.nprobe)
    return params


def _wider(params: SearchParams, factor: float) -> SearchParams:
    """The margin times a factor, and what is compared and scored at most times its square."""
    if params.margin is not None:
        most = math.ceil(params.candidates * factor**2)
        params = replace(params, margin=params.margin * factor, candidates=most)
    if params.missed is not None:
        params = replace(params, scored=math.ceil(params.scored * factor**2))
    return params
