"""`--long-documents`: what becomes of documents that are longer than the model takes."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from light_worker import LightWorker

from cluster.index_job import build_index
from colbert_core import Index
from colbert_core.errors import CorpusError, InvalidInput
from colbert_core.index import verify

FILLER = "the committee met in the morning and spoke at length of nothing in particular "
NEEDLE = "penguins of the antarctic breed on sea ice in winter"
SETTINGS = {"doc_maxlen": 32, "workers": 1, "seed": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short documents, and two long ones, of which one has its point far behind."""
    records = [{"_id": f"s{i}", "text": f"a note on subject {i}", "n": i} for i in range(30)]
    long = FILLER * 12 + NEEDLE + ". " + FILLER * 8
    records[10:10] = [{"_id": "long", "text": long, "n": 100}]
    records.append({"_id": "dull", "text": FILLER * 20, "n": 101})
    path = tmp_path_factory.mktemp("long") / "corpus.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, records)))
    return path


def test_split_finds_what_truncate_loses(ray_cluster: object, corpus: Path, tmp_path: Path) -> None:
    split = build_index(corpus, tmp_path / "split", long_documents="split", shards=2, **SETTINGS)
    assert (split.documents, split.truncated) == (32, 0)
    assert split.passages > 50
    verify(tmp_path / "split")
    index = Index.open(tmp_path / "split")
    hits = index.search("where do penguins breed", k=5, explain=True)
    assert len(set(hits.ids)) == 5
    best = hits[0]
    assert best.id == "long"
    assert best.text is not None
    assert best.window is not None
    assert "penguins" in best.text[slice(*best.window)]
    matched = {best.text[m.start : m.end] for m in best.matches if m.start >= 0}
    assert "penguins" in matched
    assert index.search("penguins", k=5, filter="n >= 100").ids[0] == "long"
    assert len(index.search("committee", k=50)) == 32


def test_truncate_counts_what_is_cut(
    ray_cluster: object, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.worker_slots.EncoderWorker", LightWorker)
    cut = build_index(corpus, tmp_path / "cut", **SETTINGS)
    assert (cut.documents, cut.passages, cut.truncated) == (32, 32, 2)


def test_error_names_the_document(
    ray_cluster: object, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.worker_slots.EncoderWorker", LightWorker)
    with pytest.raises(CorpusError, match=r"id '(long|dull)'.*32 tokens.*--long-documents split"):
        build_index(corpus, tmp_path / "index", long_documents="error", **SETTINGS)
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_another_word_is_refused_before_any_work(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="give error, truncate, split"):
        build_index(corpus, tmp_path / "index", long_documents="drop")
