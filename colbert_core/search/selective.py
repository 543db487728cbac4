"""How a shard is searched when a filter leaves a part of its passages.

Where few passages are left, looking at every one of them costs less than finding candidates: so few
are all scored precisely, and more are all compared by their centroids, also where the top k is no
small part of them. Where many are, the search is as without a filter: scoring ends by the errors of
the query among what is left. docs/decisions/filters.md measures each.
"""

from __future__ import annotations

from dataclasses import replace

from colbert_core.index.presets import PASSAGES_PER_HIT
from colbert_core.types import SearchParams

SCORED_TOKENS = 1 << 16
"""Tokens up to which all passages that a filter leaves are scored precisely."""
COMPARED_TOKENS = 1 << 17
"""Tokens up to which they are all compared by their centroids."""


def narrowed(params: SearchParams, live: int, passages: int, tokens: int) -> SearchParams:
    """What to do in a shard where a filter leaves `live` of its passages.

    Args:
        params: of the request.
        live: passages that the filter leaves, of `passages` with `tokens` in all.

    Returns:
        An exact search, one that compares every passage that is left, or `params`. A search that
        scores nothing precisely stays one, so that the scores of shards can be compared.
    """
    if params.exact or live in (0, passages):
        return params
    left = live * tokens / passages
    if left <= SCORED_TOKENS and params.scored:
        return SearchParams(params.k, 0, 0, 0, exact=True)
    if left <= COMPARED_TOKENS or live < PASSAGES_PER_HIT * params.k:
        return replace(params, candidates=max(params.k, live), margin=None)
    return params
