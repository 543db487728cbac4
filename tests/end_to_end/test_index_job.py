"""The index job on a real Ray: built, disturbed, failed, interrupted; the same bytes or nothing.

What the job does, whoever encodes, is tested with workers whose model is arithmetic
(light_worker.py), and by `make test-long` with a real one, too.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from index_bytes import contents
from light_worker import LightWorker
from processes import DRIVER

from cluster.cli import main
from cluster.index_job import build_index
from cluster.progress import SilentProgress
from cluster.worker_slots import Slots
from colbert_core import Index
from colbert_core.errors import EncodeFailed, IndexExists, InvalidInput, JobFailed
from colbert_core.index import describe, open_generation, verify
from colbert_core.text.aliases import UNTRAINED_MODEL
from workers.encoder import EncoderWorker

MODEL = Path(__file__).parents[1] / "fixtures" / "encoder_parity" / "stanford" / "checkpoint"
SETTINGS = {"shards": 2, "bits": 2, "seed": 3, "model": MODEL}
_LETTERS = random.Random(11)
WORDS = ["".join(_LETTERS.choices("aeioulnrst", k=_LETTERS.randint(8, 16))) for _ in range(400)]
"""Long enough for four units."""


class Recorder(SilentProgress):
    """Calls `on_event(stage, advances in it so far)`; keeps what a person would have seen."""

    def __init__(self, on_event=lambda stage, count: None):
        self.stages = {}
        self.advances = {}
        self.notes = []
        self._on_event = on_event

    def start(self, stage, total, noun):
        self._stage, self._count = stage, 0
        self._on_event(stage, 0)

    def advance(self, done, tokens=0):
        self._count += 1
        self.advances[self._stage] = self._count
        self.stages[self._stage] = self.stages.get(self._stage, 0) + done
        self._on_event(self._stage, self._count)

    def note(self, message):
        self.notes.append(message)

    def units(self, stage):
        """How often a stage advanced."""
        return self.advances.get(stage, 0)


def trouble(notes):
    """Notes, but for those that say that one has to wait: what else a machine does decides them."""
    return [n for n in notes if "no worker is ready" not in n and "takes long" not in n]


class Pids:
    """The processes of the workers, in the order they became ready."""

    def __init__(self, monkeypatch):
        self.ready = []
        settle = Slots.settle_loading

        def record(slots, slot):
            model = settle(slots, slot)
            if model is not None:
                self.ready.append(model.pid)
            return model

        monkeypatch.setattr(Slots, "settle_loading", record)

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


@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.long)])
def worker(request):
    """The class of all workers that these tests start, with a real model or without."""
    made = EncoderWorker if request.param else LightWorker
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cluster.worker_slots.EncoderWorker", made)
        yield made


@pytest.fixture(scope="module")
def built(ray_cluster, worker, corpus, tmp_path_factory):
    """An undisturbed build: the folder, the report, the progress."""
    out = tmp_path_factory.mktemp("built") / "index"
    progress = Recorder()
    report = build_index(corpus, out, workers=2, progress=progress, **SETTINGS)
    return out, report, progress


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
    """Half the vectors a passage."""
    pooled = tmp_path / "pooled"
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


def test_the_report_adds_up(built):
    out, report, progress = built
    manifest = open_generation(out).manifest
    assert (report.passages, report.empty, report.shards, report.workers) == (60, 2, 2, 2)
    assert report.tokens == manifest.tokens > 60
    assert report.generation == manifest.generation
    stages = ["read", "start", "sample", "train", "encode", "write", "calibrate", "publish"]
    assert list(report.seconds) == [*stages, "total"]
    assert sum(report.seconds[s] for s in stages) <= report.seconds["total"] * 1.01
    assert progress.stages["read"] == progress.stages["encode"] == 60
    assert progress.stages["write"] == 2
    assert trouble(progress.notes) == []
    orjson.dumps(report.to_dict())


@pytest.mark.parametrize(
    "moments",
    [
        [("train", 4), ("encode", 2)],
        pytest.param(
            [("sample", 1), ("train", 4), ("encode", 2), ("write", 0)], marks=pytest.mark.long
        ),
    ],
)
def test_killed_workers_change_nothing(built, corpus, monkeypatch, tmp_path, moments):
    """Killed in the middle of a unit, and idle: after a round, and before "write"."""
    out, _, _ = built
    pids = Pids(monkeypatch)

    def kill(stage, count):
        if (stage, count) in moments:
            pids.kill_newest()

    progress = Recorder(kill)
    build_index(corpus, tmp_path / "index", workers=2, progress=progress, **SETTINGS)
    lost = [note for note in progress.notes if "a worker was lost over" in note]
    assert len(lost) == len(moments)
    assert any("assigning" in note for note in lost)  # who dies idle is missed by the next work
    assert progress.stages["encode"] == 60
    assert contents(tmp_path / "index") == contents(out)


def test_a_unit_that_fails_for_good_ends_the_job_and_nothing_else(built, corpus, tmp_path):
    """One worker, a unit whose file has gone: three attempts, then the job fails by name. What was
    done is kept, the unit is made again by the same command, and the bytes are as undisturbed."""
    out = tmp_path / "index"

    def spoil(stage, count):
        if (stage, count) == ("sample", 0):
            (unit,) = out.glob("staging/job/units/000002.arrow")
            unit.unlink()

    progress = Recorder(spoil)
    with pytest.raises(JobFailed, match=r"unit 2 \(passages .* ids 'p\d\d' to 'p\d\d'\) failed 3"):
        build_index(corpus, out, workers=1, progress=progress, **SETTINGS)
    assert len(trouble(progress.notes)) == 3
    assert "run the same command again" in progress.notes[-1]
    assert not (out / "CURRENT").exists()

    again = Recorder()
    build_index(corpus, out, workers=1, progress=again, **SETTINGS)
    assert any("units/000002.arrow is missing or damaged" in note for note in again.notes)
    assert contents(out) == contents(built[0])


@pytest.mark.parametrize(
    "moments",
    [
        [("sample", 2), ("write", 1)],
        pytest.param([("sample", 2), ("encode", 3), ("write", 1)], marks=pytest.mark.long),
    ],
)
def test_an_interrupted_job_goes_on_where_it_stopped(built, corpus, tmp_path, moments):
    """Stopped in several stages, and damaged after: nothing that is whole is done again."""
    out, moments = tmp_path / "index", list(moments)

    def interrupt(stage, count):
        if (stage, count) in moments:
            moments.remove((stage, count))
            raise KeyboardInterrupt

    runs = []
    while moments:
        runs.append(Recorder(interrupt))
        with pytest.raises(KeyboardInterrupt):
            build_index(corpus, out, workers=1, progress=runs[-1], **SETTINGS)
        assert not (out / "CURRENT").exists()
    ledger = out / "staging" / "job" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes() + b"torn")
    chunk = out / "staging" / "job" / "chunks" / "000000.npz"
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"x")

    with pytest.raises(
        IndexExists, match=r"and 1 of the shards.*--bits was 2, now 4; --seed was 3, now 0"
    ):
        build_index(corpus, out, workers=1, shards=2, bits=4, model=MODEL)
    last = Recorder()
    report = build_index(corpus, out, workers=1, progress=last, **SETTINGS)
    assert contents(out) == contents(built[0])
    units = [run.units(stage) for run in (*runs, last) for stage in ("sample", "encode")]
    sampled, encoded = units[0::2], units[1::2]
    assert sum(sampled) == built[2].units("sample")
    assert sum(encoded) == built[2].units("encode") + 1  # the damaged one
    assert last.stages == {"start": 1, "encode": last.stages["encode"], "write": 1} | {
        "calibrate": 1,
        "publish": 1,
    }
    assert list(report.seconds) == ["start", "encode", "write", "calibrate", "publish", "total"]


def run_driver(ray_cluster, *, kill=None, **options):
    """A driver in a process of its own, on the same Ray; what it said, and how it ended."""
    environment = os.environ | {
        "RAY_ADDRESS": ray_cluster.address,
        "PYTHONPATH": str(Path(__file__).parent),  # of light_worker.py
    }
    values = {
        key: str(value) if isinstance(value, Path) else value for key, value in options.items()
    }
    command = [*DRIVER, orjson.dumps(values | {"kill": kill}).decode()]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, timeout=120, check=False
    )
    return done.stdout, done.returncode


@pytest.mark.parametrize(
    "moments",
    [
        [("encode", 2), ("publish", 0)],
        pytest.param([("sample", 1), ("encode", 2), ("publish", 0)], marks=pytest.mark.long),
    ],
)
def test_a_killed_driver_goes_on_where_it_stopped(
    built, worker, ray_cluster, corpus, tmp_path, moments
):
    """SIGKILL at these moments, one after the other; then the bytes of an undisturbed build."""
    out = tmp_path / "index"
    light = worker is not EncoderWorker
    for moment in moments:
        said, code = run_driver(
            ray_cluster, kill=moment, light=light, corpus=corpus, out=out, workers=1, **SETTINGS
        )
        assert code == -signal.SIGKILL, said
        assert not (out / "CURRENT").exists()
    # Between the manifest and CURRENT: a manifest that nothing names.
    generation = next((out / "shards").iterdir()).name.rsplit("-", 1)[0]
    (out / "generations").mkdir(exist_ok=True)
    (out / "generations" / f"{generation}.json").write_text("{}")
    last = Recorder()
    build_index(corpus, out, workers=1, progress=last, **SETTINGS)
    assert "encode" not in last.stages
    assert contents(out) == contents(built[0])


def failing_worker(worker, error):
    """A worker class whose commits fail with an error in one unit; Ray sends it by value."""

    class Failing(worker):
        def compress(self, unit, skip, codec):
            if unit.index == 2:
                raise error
            return super().compress(unit, skip, codec)

    return Failing


def test_a_full_disk_ends_the_job_and_publishes_nothing(
    ray_cluster, worker, corpus, tmp_path, monkeypatch
):
    out = tmp_path / "index"
    full = OSError(errno.ENOSPC, "No space left on device", "/chunks/000002.npz")
    monkeypatch.setattr("cluster.worker_slots.EncoderWorker", failing_worker(worker, full))
    with pytest.raises(JobFailed, match=r"unit 2 .*No space left on device"):
        build_index(corpus, out, workers=1, progress=Recorder(), **SETTINGS)
    assert not (out / "CURRENT").exists()


def poisoned_worker(worker):
    """A worker whose model raises on one passage, and whose process dies of another."""

    class Poisoned(worker):
        def _encode_texts(self, unit, texts):
            if any("poison" in text for text in texts):
                raise EncodeFailed(f"{unit}: ValueError: poison")
            if any("deadly" in text for text in texts):
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._encode_texts(unit, texts)

    return Poisoned


@pytest.mark.parametrize("poison", ["poison", pytest.param("deadly", marks=pytest.mark.long)])
def test_poisoned_passages_are_found_named_and_left_out(
    ray_cluster, worker, tmp_path, monkeypatch, poison
):
    """Such that raise, and such that kill: fatal by default; skipped, the index is the same however
    often the job was interrupted."""
    records = [{"_id": f"p{i:02d}", "text": f"{WORDS[i]} {WORDS[2 * i]} " * 20} for i in range(48)]
    records[5]["text"] += poison
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    monkeypatch.setattr("cluster.worker_slots.EncoderWorker", poisoned_worker(worker))
    monkeypatch.setattr("cluster.attempts.MAX_LOSSES", 2)
    settings = {"shards": 2, "model": MODEL, "workers": 1}

    out = tmp_path / "index"
    with pytest.raises(JobFailed, match=r"the model fails on passage 'p05' of .*--on-error skip"):
        build_index(path, out, **settings)

    def interrupt(stage, count):
        if (stage, count) == ("encode", 1):
            raise KeyboardInterrupt

    skip = {**settings, "on_error": "skip"}
    with pytest.raises(KeyboardInterrupt):
        build_index(path, out, progress=Recorder(interrupt), **skip)
    with pytest.raises(IndexExists, match="has left out 1 of its passages"):
        build_index(path, out, **settings)
    progress = Recorder()
    report = build_index(path, out, progress=progress, **skip)
    assert (report.skipped, report.passages) == (("p05",), 47)
    assert not any("halves" in note for note in progress.notes)  # known from before
    generation = open_generation(out)
    assert generation.manifest.extras["skipped"] == ["p05"]
    ids = [i for shard in generation.shards for i in shard.ids()]
    assert ids == [record["_id"] for record in records if record["_id"] != "p05"]

    build_index(path, tmp_path / "again", **skip)
    assert contents(tmp_path / "again") == contents(out)


def test_a_taken_place_is_refused_before_ray_is_needed(built, corpus):
    out, _, _ = built
    with pytest.raises(IndexExists, match="--overwrite"):
        build_index(corpus, out, **SETTINGS)


def test_another_generation_replaces_the_index(built, corpus, tmp_path):
    """What is refused changes nothing; what is built has the index before as its parent."""
    out = tmp_path / "index"
    shutil.copytree(built[0], out)
    before, dim = open_generation(out).manifest, built[1].dim
    settings = {"model": MODEL, "overwrite": True, "workers": 1}
    with pytest.raises(InvalidInput, match=rf"dim is {dim + 8}.*{dim} or less"):
        build_index(corpus, out, dim=dim + 8, **settings)
    assert open_generation(out).manifest == before
    second = build_index(corpus, out, shards=1, **settings)
    manifest = open_generation(out).manifest
    assert (manifest.generation, manifest.parent) == (second.generation, before.generation)
    assert second.tokens == built[1].tokens


def test_real_text_reduced_and_pooled(ray_cluster, adi, tmp_path, monkeypatch):
    """A real model, PCA to 64 dimensions and half the vectors; a document finds itself, by spans
    that are unknown."""
    monkeypatch.setattr("cluster.worker_slots.EncoderWorker", EncoderWorker)
    out = tmp_path / "index"
    settings = {"model": UNTRAINED_MODEL, "dim": 64, "pool_factor": 2, "shards": 2, "workers": 1}
    report = build_index(adi, out, **settings)
    assert (report.passages, report.dim, report.truncated) == (82, 64, 0)
    verify(out)
    index = Index.open(out)
    assert index.generation.model["source"] == UNTRAINED_MODEL
    assert index.generation.projection.shape == (384, 64)
    np.testing.assert_allclose(
        index.generation.projection.T @ index.generation.projection, np.eye(64), atol=1e-5
    )
    passage = index.generation.shards[1].stored(3)
    (hit,) = index.search(passage.metadata["title"], k=1, exact=True, explain=True)
    assert (hit.id, hit.text) == (passage.id, passage.text)
    assert {(match.start, match.end) for match in hit.matches} == {(-1, -1)}
