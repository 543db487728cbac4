"""Indexes that earlier programs wrote: opened, verified and searched as when they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from colbert_core import Index
from colbert_core.index import check_index
from colbert_core.index.manifest import MIN_VERSION, VERSION

FIXTURES = Path(__file__).parents[1] / "fixtures"
FROZEN = {path.name: sorted(path.iterdir()) for path in sorted(FIXTURES.glob("index_v*"))}
CASES = [case for cases in FROZEN.values() for case in cases]


def test_every_version_that_is_read_is_frozen() -> None:
    assert {f"index_v{v}" for v in range(MIN_VERSION, VERSION + 1)} <= set(FROZEN)
    names = {f"{codec}-{bits}" for codec in ("tartan", "colbertv2") for bits in (1, 2, 3, 4)}
    assert all({case.name for case in cases} >= names for cases in FROZEN.values())
    assert "changed" in {case.name for case in FROZEN[f"index_v{VERSION}"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parent.name}/{case.name}")
def test_a_frozen_index_is_read_as_it_was_written(case: Path) -> None:
    assert not check_index(case / "index", deep=True).problems
    index = Index.open(case / "index")
    assert f"index_v{index.manifest.version}" == case.parent.name
    expected = np.load(case / "expected.npz")
    for query, ids, scores in zip(
        *(expected[name] for name in ("queries", "ids", "scores")), strict=True
    ):
        for hits in (index.search(query, k=len(ids), exact=True), index.search(query, k=len(ids))):
            assert list(hits.ids) == ids.tolist()
            # queries have 16 bits, of which two versions may take others: 2e-5 a token
            np.testing.assert_allclose(hits.scores, scores, rtol=0, atol=1e-4)
        number = int(ids[0].removeprefix("id-"))
        assert hits[0].text == f"text {number} · ü"
        assert hits[0].metadata == ({"n": number, "even": number % 2 == 0} if number % 3 else {})
