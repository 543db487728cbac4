"""The index job on a real Ray: built, disturbed, failed, interrupted; the same bytes or nothing."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from cluster.cli import main
from cluster.index_job import build_index
from cluster.progress import SilentProgress
from cluster.worker_pool import WorkerPool
from colbert_core import Index
from colbert_core.errors import IndexExists, InvalidInput, JobFailed
from colbert_core.index import describe, open_generation, verify

SETTINGS = {"shards": 2, "bits": 2, "seed": 3}
WORDS = Path(__file__).read_text().split()


class Recorder(SilentProgress):
    """Calls `on_event(stage, advances in it so far)`; keeps what a person would have seen."""

    def __init__(self, on_event=lambda stage, count: None):
        self.stages = {}
        self.notes = []
        self._on_event = on_event

    def start(self, stage, total, noun):
        self._stage, self._count = stage, 0
        self._on_event(stage, 0)

    def advance(self, done, tokens=0):
        self._count += 1
        self.stages[self._stage] = self.stages.get(self._stage, 0) + done
        self._on_event(self._stage, self._count)

    def note(self, message):
        self.notes.append(message)


class Pids:
    """The processes of the workers, in the order they became ready."""

    def __init__(self, monkeypatch):
        self.ready = []
        settle = WorkerPool._settle_loading

        def record(pool, slot):
            model = settle(pool, slot)
            if model is not None:
                self.ready.append(model.pid)
            return model

        monkeypatch.setattr(WorkerPool, "_settle_loading", record)

    def kill_newest(self):
        os.kill(self.ready.pop(), signal.SIGKILL)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """60 passages, some empty, in two formats."""
    rng = random.Random(5)
    folder = tmp_path_factory.mktemp("corpus")
    records = [
        {"_id": f"p{i:02d}", "text": " ".join(rng.choices(WORDS, k=i % 40)), "n": i}
        for i in range(60)
    ]
    (folder / "a.jsonl").write_bytes(b"\n".join(orjson.dumps(r) for r in records[:50]))
    lines = [f"{r['_id']}\t{r['text']}" for r in records[50:]]
    (folder / "b.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def built(ray_cluster, corpus, tmp_path_factory):
    """An undisturbed build: the folder, the report, the progress."""
    out = tmp_path_factory.mktemp("built") / "index"
    progress = Recorder()
    report = build_index(corpus, out, workers=2, progress=progress, **SETTINGS)
    return out, report, progress


def shard_bytes(index):
    """SHA-256 of every file of the live shards and codec, by shard number and name."""
    manifest = open_generation(index).manifest
    folders = [index / "global" / manifest.codec_id]
    folders += [index / "shards" / shard.id for shard in manifest.shards]
    return {
        (number, path.name): hashlib.sha256(path.read_bytes()).hexdigest()
        for number, folder in enumerate(folders)
        for path in sorted(folder.iterdir())
    }


def test_the_index_holds_the_corpus(built):
    out, _, _ = built
    verify(out)
    generation = open_generation(out)
    first, second = generation.shards
    ids = [f"p{i:02d}" for i in range(60)]
    assert first.ids() + second.ids() == ids
    passage = first.stored(7)
    assert (passage.id, dict(passage.metadata)) == ("p07", {"n": 7})
    assert len(passage.text.split()) == 7
    assert abs(first.entry.tokens - second.entry.tokens) <= 2 * 256
    assert generation.model["source"] == "minilm-untrained"
    assert not (out / "staging").exists()
    assert sorted(path.name for path in out.iterdir()) == [
        "CURRENT",
        "generations",
        "global",
        "shards",
    ]


def doclens(index):
    """Vectors of each passage."""
    return [
        shard.offsets[pid + 1] - shard.offsets[pid]
        for shard in open_generation(index).shards
        for pid in range(shard.passages)
    ]


def test_pooled_by_the_command_line(built, corpus, tmp_path, monkeypatch, capfd):
    """Half the vectors a passage, whoever pools; and what is found says that spans are unknown."""
    pooled, same = tmp_path / "pooled", tmp_path / "same"
    words = [
        "index",
        "build",
        corpus,
        "--out",
        pooled,
        "--workers",
        1,
        "--pool-factor",
        2,
        "--json",
    ]
    options = [str(word) for name, value in SETTINGS.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["tartan", *map(str, words), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (None, 0)
    assert orjson.loads(capfd.readouterr().out)["tokens"] == sum(doclens(pooled))
    assert doclens(pooled) == [-(-doclen // 2) for doclen in doclens(built[0])]
    assert describe(open_generation(pooled).manifest)["pool_factor"] == 2
    verify(pooled)

    build_index(corpus, same, workers=2, pool_factor=2, **SETTINGS)
    assert shard_bytes(same) == shard_bytes(pooled)

    index = Index.open(pooled)
    text = index.generation.shards[0].stored(19).text
    (hit,) = index.search(text, k=1, explain=True)
    assert hit.text == text
    assert {(match.start, match.end) for match in hit.matches} == {(-1, -1)}


def test_the_report_adds_up(built):
    out, report, progress = built
    manifest = open_generation(out).manifest
    assert (report.passages, report.empty, report.shards, report.workers) == (60, 2, 2, 2)
    assert report.tokens == manifest.tokens > 60
    assert report.dim == 192  # of 384
    assert report.generation == manifest.generation
    stages = ["read", "start", "sample", "train", "encode", "write", "calibrate", "publish"]
    assert list(report.seconds) == [*stages, "total"]
    assert sum(report.seconds[s] for s in stages) <= report.seconds["total"] * 1.01
    assert progress.stages["read"] == progress.stages["encode"] == 60
    assert progress.stages["write"] == 2
    assert progress.notes == []
    orjson.dumps(report.to_dict())


def test_killed_workers_change_nothing(built, corpus, monkeypatch, tmp_path):
    out, _, _ = built
    pids = Pids(monkeypatch)

    def kill(stage, count):
        if (stage, count) in {("sample", 1), ("encode", 2), ("write", 0)}:
            pids.kill_newest()  # in the middle of a unit; before "write", while it is idle

    progress = Recorder(kill)
    build_index(corpus, tmp_path / "index", workers=2, progress=progress, **SETTINGS)
    lost = [note for note in progress.notes if "a worker was lost over" in note]
    assert len(lost) == 3
    assert "unit" in lost[0]
    assert "shard" in lost[2]
    assert progress.stages["encode"] == 60
    assert shard_bytes(tmp_path / "index") == shard_bytes(out)


def test_a_unit_that_fails_for_good_ends_the_job_and_nothing_else(built, corpus):
    """One worker, a unit whose file has gone: three attempts, then the job fails by name."""
    out, report, _ = built
    before = shard_bytes(out)

    def spoil(stage, count):
        if (stage, count) == ("sample", 0):
            (unit,) = out.glob("staging/*/units/000002.arrow")
            unit.unlink()

    progress = Recorder(spoil)
    with pytest.raises(JobFailed, match=r"unit 2 \(passages .* ids 'p\d\d' to 'p\d\d'\) failed 3"):
        build_index(corpus, out, workers=1, overwrite=True, progress=progress, **SETTINGS)
    assert len(progress.notes) == 2
    assert open_generation(out).manifest.generation == report.generation
    assert shard_bytes(out) == before
    assert not (out / "staging").exists()
    assert len(list((out / "shards").iterdir())) == 2


def test_an_interrupted_job_leaves_nothing_behind(ray_cluster, corpus, tmp_path):
    def interrupt(stage, count):
        if (stage, count) == ("write", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(corpus, tmp_path / "index", workers=1, progress=Recorder(interrupt), **SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_place_is_refused_before_ray_is_needed(built, corpus):
    out, _, _ = built
    with pytest.raises(IndexExists, match="--overwrite"):
        build_index(corpus, out, **SETTINGS)


def test_adi_reduced_and_replaced(ray_cluster, adi, tmp_path):
    """Real text: PCA to 64 dimensions, then a second generation; a document finds itself."""
    from colbert_core.text import Encoder

    out = tmp_path / "index"
    report = build_index(adi, out, dim=64, shards=2, workers=2)
    assert (report.passages, report.dim, report.truncated) == (82, 64, 0)
    verify(out)
    generation = open_generation(out)
    assert generation.projection.shape == (384, 64)
    np.testing.assert_allclose(
        generation.projection.T @ generation.projection, np.eye(64), atol=1e-5
    )
    encoder = Encoder.for_index(generation.model, generation.projection)
    passage = generation.shards[1].stored(3)
    Q_LD = generation.codec.rotate(encoder.encode_queries([passage.metadata["title"]])[0])
    pids, _, _, _ = generation.shards[1].kernel.exhaustive(Q_LD, 1)
    assert pids.tolist() == [3]

    with pytest.raises(InvalidInput, match=r"dim is 392.*384 or less"):
        build_index(adi, out, dim=392, overwrite=True, workers=1)
    assert open_generation(out).manifest.generation == report.generation
    second = build_index(adi, out, dim=64, shards=1, workers=1, overwrite=True)
    manifest = open_generation(out).manifest
    assert (manifest.generation, manifest.parent) == (second.generation, report.generation)
    assert second.tokens == report.tokens
