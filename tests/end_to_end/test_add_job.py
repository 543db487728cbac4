"""The add job on a real Ray: documents added to an index are found as if they had been built in.

With workers whose model is arithmetic (light_worker.py), and by `make test-long` with a real one.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from light_worker import LightWorker, vectors_of

from cluster.add_job import add_to_index
from cluster.cli import main
from cluster.index_job import build_index
from colbert_core import Index
from colbert_core.errors import CorpusError, ModelMismatch
from colbert_core.index import open_generation, verify
from colbert_core.types import F32

WORDS = Path(__file__).read_text().split()


def write(path: Path, names: list[str], seed: int) -> Path:
    rng = random.Random(seed)
    rows = [{"_id": n, "text": " ".join(rng.choices(WORDS, k=12)), "by": seed} for n in names]
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    return path


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.long)])
def real(request: pytest.FixtureRequest) -> bool:
    """Whether workers have a real model."""
    return bool(request.param)


@pytest.fixture(scope="module")
def built(
    tmp_path_factory: pytest.TempPathFactory, ray_cluster: object, real: bool
) -> Iterator[Path]:
    """A folder with an index and what it was built of, by workers that all jobs here have."""
    folder = tmp_path_factory.mktemp("add")
    write(folder / "a.jsonl", [f"a{n}" for n in range(40)], 1)
    with pytest.MonkeyPatch.context() as patched:
        if not real:
            patched.setattr("cluster.worker_slots.EncoderWorker", LightWorker)
        build_index(folder / "a.jsonl", folder / "ix", shards=2, workers=1, pool_factor=2)
        yield folder


def test_documents_are_added_replaced_and_refused(
    built: Path, real: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def query(row: dict[str, Any]) -> str | F32:
        return str(row["text"]) if real else vectors_of(row["text"].split())

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
        best = now.search(query(row), k=3)[0]
        assert (best.id, best.text, best.metadata["by"]) == (one, row["text"], 2)
    assert len(now.search(query(rows["b2"]), k=99)) == 42

    # merged and without what was replaced, it finds the same
    found = now.search(query(rows["b1"]), k=42, exact=True)
    compacted = now.compact().search(query(rows["b1"]), k=42, exact=True)
    assert (found.ids, found.scores.tolist()) == (compacted.ids, compacted.scores.tolist())


def test_another_model_is_refused(built: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "c.jsonl", ["c1"], 3)
    before = open_generation(built / "ix").manifest
    with pytest.raises(ModelMismatch, match="was built with model"):
        add_to_index(new, built / "ix", model="minilm-untrained", workers=1)
    assert open_generation(built / "ix").manifest == before
    assert not (built / "ix" / "staging").exists()
