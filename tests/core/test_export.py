"""Plain files out of an index, and an index out of them again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from colbert_core import Index
from colbert_core.errors import IndexExists, InvalidInput
from colbert_core.export import export_index

FROZEN = Path(__file__).parents[1] / "fixtures" / "index_v3"


@pytest.mark.parametrize("case", ["tartan-4", "colbertv2-2"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_is_exported_is_what_the_index_holds(case: str, dtype: str, tmp_path: Path) -> None:
    index = Index.open(FROZEN / case / "index")
    about = export_index(FROZEN / case / "index", tmp_path / "out", dtype=dtype)
    vectors = np.load(tmp_path / "out" / "embeddings.npy", mmap_mode="r")
    assert (vectors.dtype, vectors.shape) == (dtype, (about.tokens, about.dim))
    shards = index.generation.shards
    expected = [shard.codec.decode(*shard.compressed(0, shard.passages)) for shard in shards]
    np.testing.assert_array_equal(vectors, np.concatenate(expected).astype(dtype))
    doclens = np.load(tmp_path / "out" / "doclens.npy")
    assert (doclens.dtype, int(doclens.sum()), len(doclens)) == (np.int32, about.tokens, len(index))
    rows = [json.loads(line) for line in (tmp_path / "out" / "passages.jsonl").open()]
    assert [row["_id"] for row in rows] == [f"id-{i}" for i in range(24)]
    assert rows[1] == {"_id": "id-1", "text": "text 1 · ü", "metadata": {"n": 1, "even": False}}
    stated = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (stated["tokens"], stated["dtype"]) == (about.tokens, dtype)


def test_an_index_of_what_was_exported_ranks_alike(tmp_path: Path) -> None:
    """As the README of the export says it is done."""
    case = FROZEN / "tartan-4"
    export_index(case / "index", tmp_path / "out", dtype="float32")
    rows = [json.loads(line) for line in (tmp_path / "out" / "passages.jsonl").open()]
    again = Index.build(
        tmp_path / "ix",
        np.load(tmp_path / "out" / "embeddings.npy", mmap_mode="r"),
        [row["_id"] for row in rows],
        4,
        doclens=np.load(tmp_path / "out" / "doclens.npy"),
        texts=[row["text"] for row in rows],
        metadata=[row.get("metadata", {}) for row in rows],
        normalize=True,
    )
    first = Index.open(case / "index")
    for query in np.load(case / "expected.npz")["queries"]:
        before, after = (ix.search(query, k=24, exact=True) for ix in (first, again))
        scores = dict(zip(after.ids, after.scores, strict=True))
        near = [abs(scores[one] - s) for one, s in zip(before.ids, before.scores, strict=True)]
        assert max(near) < 0.1  # of 5 query tokens, compressed twice at 4 bits
        assert before[0].id == after[0].id
        assert (before[0].text, before[0].metadata) == (after[0].text, after[0].metadata)


def test_the_passages_of_an_export_are_a_corpus(tmp_path: Path) -> None:
    from colbert_core.text.corpus import read_corpus

    export_index(FROZEN / "tartan-1" / "index", tmp_path / "out")
    passages = [document.passage for document in read_corpus(tmp_path / "out" / "passages.jsonl")]
    assert passages[4].id == "id-4"
    assert passages[4].text == "text 4 · ü"
    assert passages[4].metadata == {"n": 4, "even": True}


def test_a_place_that_is_taken_and_other_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(IndexExists):
        export_index(FROZEN / "tartan-1" / "index", tmp_path / "out")
    with pytest.raises(InvalidInput, match="float64"):
        export_index(FROZEN / "tartan-1" / "index", tmp_path / "other", dtype="float64")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
