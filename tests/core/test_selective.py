"""What is done where a filter leaves a part: pure decisions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from colbert_core.search.params import derive_params
from colbert_core.search.selective import COMPARED_TOKENS, SCORED_TOKENS, WIDEST, narrowed
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
    assert under(most_compared + 1).margin == pytest.approx(PARAMS.margin * WIDEST)


def test_margins_widen_with_what_is_left_out() -> None:
    margins = [under(live).margin for live in (N - 1, 60_000, 30_000, 13_000, 9_000)]
    assert margins == sorted(margins)
    assert margins[0] == pytest.approx(PARAMS.margin, rel=1e-4)
    assert margins[-1] == pytest.approx(PARAMS.margin * WIDEST)
    assert under(9_000).scored == math.ceil(PARAMS.scored * WIDEST**2)
    assert under(9_000).missed == PARAMS.missed


def test_more_are_probed_where_very_few_of_very_many_are_left() -> None:
    def probed(live: int) -> int:
        return narrowed(PARAMS, live, 100 * N, 100 * N * TOKENS_EACH).nprobe

    assert probed(100 * N // 32) == 2 * PARAMS.nprobe
    assert probed(100 * N // 32 + 1) == PARAMS.nprobe
    assert under(COMPARED_TOKENS // TOKENS_EACH).nprobe == PARAMS.nprobe


def test_raw_numbers_are_kept_and_coarse_stays_coarse() -> None:
    raw = derive_params(10, candidates=500, scored=40)
    assert under(50_000, raw) == raw
    coarse = derive_params(10, scored=0)
    assert not under(3, coarse).exact
    assert under(3, coarse).scored == 0
    assert under(3, replace(coarse, k=5)).candidates == 5
