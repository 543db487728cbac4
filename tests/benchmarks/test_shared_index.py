"""Indexes written for peers from shared tokens, made up. `shared_check.py` needs the peers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from report.tables import build_table

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "peers"))

from index_writers import write_fast_plaid, write_xtr_warp
from shared_index import NOTE, place
from shared_tokens import SharedTokens

DOCLENS = np.array([3, 500, 1, 40] * 70)  # 280 passages are two chunks of xtr-warp-rs


@pytest.fixture
def shared() -> SharedTokens:
    rng = np.random.default_rng(1)
    total, dim, centroids = int(DOCLENS.sum()), 8, 50
    codes_T = rng.integers(centroids - 1, size=total).astype(np.int32)  # the last has no tokens
    return SharedTokens(
        bits=4,
        centroids_CD=rng.normal(size=(centroids, dim)).astype(np.float16),
        cutoffs=np.linspace(-1, 1, 15).astype(np.float32),
        weights=np.linspace(-1, 1, 16).astype(np.float32),
        avg_residual_D=np.ones(dim, np.float32),
        threshold=np.array(0.5, np.float32),
        codes_T=codes_T,
        residuals_TB=rng.integers(256, size=(total, dim // 2)).astype(np.uint8),
        doclens_N=DOCLENS,
    )


def test_postings_name_every_passage_of_a_centroid_once(shared: SharedTokens) -> None:
    pids, lengths_C = shared.postings()
    pids_T = np.repeat(np.arange(len(DOCLENS)), DOCLENS)
    for code, found in enumerate(np.split(pids, np.cumsum(lengths_C)[:-1])):
        assert found.tolist() == sorted(set(pids_T[shared.codes_T == code].tolist()))


def test_fast_plaid_merged_arrays(shared: SharedTokens, tmp_path: Path) -> None:
    write_fast_plaid(shared, tmp_path)
    merged = tmp_path / "merged_residuals.npy"
    rows = np.load(merged)
    assert len(rows) == DOCLENS.sum() + DOCLENS.max() - DOCLENS[-1]
    assert merged.stat().st_size == 192 + rows.nbytes
    assert (rows[: DOCLENS.sum()] == shared.residuals_TB).all()
    assert not rows[DOCLENS.sum() :].any()
    codes = np.load(tmp_path / "merged_codes.npy")
    assert codes.dtype == np.int64
    assert (codes[: DOCLENS.sum()] == shared.codes_T).all()


def test_xtr_warp_chunks_and_its_order_by_centroid(shared: SharedTokens, tmp_path: Path) -> None:
    write_xtr_warp(shared, tmp_path)
    chunks = [np.load(tmp_path / f"{chunk}.codes.npy") for chunk in range(2)]
    assert (np.concatenate(chunks) == shared.codes_T).all()
    offsets = np.load(tmp_path / "offsets.compacted.npy")
    pids = np.load(tmp_path / "codes.compacted.npy")
    residuals = np.load(tmp_path / "residuals.compacted.npy")
    pids_T = np.repeat(np.arange(len(DOCLENS)), DOCLENS)
    for code in (0, 7, 49):
        of_it, stored = shared.codes_T == code, slice(offsets[code], offsets[code + 1])
        assert (pids[stored] == pids_T[of_it]).all()
        assert (residuals[stored] == shared.residuals_TB[of_it]).all()


def test_an_index_of_the_engine_itself_is_not_replaced(
    shared: SharedTokens, tmp_path: Path
) -> None:
    index, record = tmp_path / "fast-plaid-4-bit", tmp_path / "fast-plaid-4-bit.build.json"
    place(shared, "fast-plaid", index)
    assert json.loads(record.read_text()) == {"note": NOTE}
    place(shared, "fast-plaid", index)  # ours may be
    for own in ({"seconds": 3600.0}, {"seconds": 3600.0, "note": "k-means of another build"}):
        record.write_text(json.dumps(own))
        with pytest.raises(SystemExit, match="remove it"):
            place(shared, "fast-plaid", index)
    record.unlink()  # a build that is not done
    with pytest.raises(SystemExit, match="remove it"):
        place(shared, "fast-plaid", index)


def test_no_seconds_are_shown_for_what_was_not_built() -> None:
    unbuilt = {"index": "4-bit", "build_seconds": None, "build_note": NOTE}
    rows = [{"engine": engine} | unbuilt for engine in ("a", "b")]
    assert build_table(rows)[2:] == ["", f"a 4-bit, b 4-bit: {NOTE}."]
