"""What is done where a filter leaves a part: pure decisions."""

from __future__ import annotations

from dataclasses import replace

from colbert_core.search.params import derive_params
from colbert_core.search.selective import COMPARED_TOKENS, SCORED_TOKENS, narrowed
from colbert_core.types import SearchParams

N, TOKENS_EACH = 100_000, 100
PARAMS = derive_params(10)


def under(live: int, params: SearchParams = PARAMS) -> SearchParams:
    return narrowed(params, live, N, N * TOKENS_EACH)


def test_all_none_and_exact_stay_as_they_are() -> None:
    assert under(N) is PARAMS
    assert under(0) is PARAMS
    exact = derive_params(10, exact=True)
    assert under(5, exact) is exact


def test_few_are_scored_more_compared_and_many_are_searched() -> None:
    most_scored = SCORED_TOKENS // TOKENS_EACH
    assert under(most_scored).exact
    compared = under(most_scored + 1)
    assert (compared.exact, compared.margin, compared.candidates) == (False, None, most_scored + 1)
    most_compared = COMPARED_TOKENS // TOKENS_EACH
    assert under(most_compared).margin is None
    assert under(most_compared + 1) == PARAMS
    many = derive_params(1000)
    assert under(8_000, many) == many
    assert under(7_999, many) == replace(many, margin=None, candidates=7_999)


def test_raw_numbers_are_kept_and_coarse_stays_coarse() -> None:
    raw = derive_params(10, candidates=500, scored=40)
    assert under(50_000, raw) == raw
    coarse = derive_params(10, scored=0)
    assert not under(3, coarse).exact
    assert under(3, coarse).scored == 0
    assert under(3, replace(coarse, k=5)).candidates == 5
