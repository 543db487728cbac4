"""The add job on a real Ray: documents added to an index are found as if they had been built in."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from cluster.add_job import add_to_index
from cluster.cli import main
from cluster.index_job import build_index
from colbert_core import Index
from colbert_core.errors import CorpusError, ModelMismatch
from colbert_core.index import open_generation, verify
from colbert_core.text.aliases import locate

WORDS = Path(__file__).read_text().split()


def write(path: Path, names: list[str], seed: int) -> Path:
    rng = random.Random(seed)
    rows = [{"_id": n, "text": " ".join(rng.choices(WORDS, k=12)), "by": seed} for n in names]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, ray_cluster: object) -> Path:
    folder = tmp_path_factory.mktemp("add")
    write(folder / "a.jsonl", [f"a{n}" for n in range(40)], 1)
    build_index(folder / "a.jsonl", folder / "ix", shards=2, workers=1, pool_factor=2)
    return folder


def test_documents_are_added_replaced_and_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = built / "ix"
    before = Index.open(path)
    new = write(built / "b.jsonl", ["b1", "b2", "a3"], 2)
    with pytest.raises(CorpusError, match="'a3' is in the index already"):
        add_to_index(new, path)
    assert Index.open(path).manifest == before.manifest

    capsys.readouterr()
    monkeypatch.setattr(
        sys,
        "argv",
        ["tartan", "index", "add", str(path), str(new), "--replace", "--workers", "1", "--json"],
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (report["added"], report["replaced"], report["passages"]) == (3, 1, 42)
    assert report["drift"] > 0.5
    assert not (path / "staging").exists()
    verify(path)

    now = Index.open(path)
    assert now.manifest.codec_id == before.manifest.codec_id
    assert now.manifest.parent == before.manifest.generation
    rows = {json.loads(line)["_id"]: json.loads(line) for line in new.read_text().splitlines()}
    for one, row in rows.items():
        best = now.search(row["text"], k=3)[0]
        assert (best.id, best.text, best.metadata["by"]) == (one, row["text"], 2)
    assert len(now.search("anything", k=99)) == 42

    # merged and without what was replaced, it finds the same
    found = now.search(rows["b1"]["text"], k=42, exact=True)
    compacted = now.compact().search(rows["b1"]["text"], k=42, exact=True)
    assert (found.ids, found.scores.tolist()) == (compacted.ids, compacted.scores.tolist())


def test_another_model_is_refused(built: Path, tmp_path: Path) -> None:
    other = tmp_path / "model"
    other.mkdir()
    source = locate("minilm-untrained")
    for file in Path(source).iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    with (other / "tokenizer.json").open("a") as tokenizer:
        tokenizer.write("\n")
    new = write(tmp_path / "c.jsonl", ["c1"], 3)
    before = open_generation(built / "ix").manifest
    with pytest.raises(ModelMismatch, match="was built with model"):
        add_to_index(new, built / "ix", model=other, workers=1)
    assert open_generation(built / "ix").manifest == before
    assert not (built / "ix" / "staging").exists()
