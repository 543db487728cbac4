"""`tartan` from bucket to bucket, on a real Ray: built, stopped, gone on with, searched, served.

Where text is not searched, workers whose model is arithmetic encode (light_worker.py).
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
import pytest
from light_worker import DIM, LightWorker
from processes import START_TIMEOUT_S, first_line, tartan
from s3_server import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN
from text_checkpoints import stanford

from cluster.cli import main
from cluster.client import Client
from cluster.index_job import build_index
from cluster.progress import SilentProgress
from cluster.ray_session import ray_session
from cluster.remote_build import _upload, build_to_bucket, staging_folder
from colbert_core import Index
from colbert_core.errors import IndexExists, InvalidInput, Unavailable
from colbert_core.index import live_generation, read_current
from colbert_core.storage import location
from workers.encoder import EncoderWorker

WORDS = Path(__file__).read_text().split()
SETTINGS = {"shards": 2, "bits": 2, "seed": 3, "workers": 1}
QUERY = "built stopped searched"
QUERY_LD = np.random.default_rng(4).standard_normal((5, DIM), dtype=np.float32)


@pytest.fixture(scope="module")
def ray_cluster():
    with (
        ray_session(purpose="the tests", cpus=4, answers=True) as session,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr("cluster.worker_slots.EncoderWorker", LightWorker)
        yield session


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(stanford(tmp_path_factory.mktemp("model")))


def records(count: int) -> bytes:
    rng = random.Random(5)
    rows = [{"_id": f"p{i}", "text": " ".join(rng.choices(WORDS, k=12))} for i in range(count)]
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


@pytest.fixture
def corpus(s3, bucket, tmp_path) -> tuple[str, Path]:
    """The same corpus in a bucket and here."""
    data = records(60)
    s3.put_object(Bucket=bucket, Key="corpus/a.jsonl", Body=data)
    (tmp_path / "a.jsonl").write_bytes(data)
    return f"s3://{bucket}/corpus/*.jsonl", tmp_path / "a.jsonl"


class Recorder(SilentProgress):
    """Keeps the stages; calls something at each advance of a stage."""

    def __init__(self, stage="", at=lambda: None):
        self.stages, self.notes = [], []
        self._stage, self._at = stage, at

    def start(self, stage, total, noun):
        self.stages.append(stage)

    def advance(self, done, tokens=0):
        if self.stages[-1] == self._stage:
            self._at()

    def note(self, message):
        self.notes.append(message)


def test_from_bucket_to_bucket_as_from_folder_to_folder(
    ray_cluster, corpus, bucket, model, tmp_path, monkeypatch
):
    uri, here = corpus
    out = f"s3://{bucket}/built/index"
    monkeypatch.setattr("cluster.worker_slots.EncoderWorker", EncoderWorker)
    progress = Recorder()
    report = build_index(uri, out, model=model, progress=progress, **SETTINGS)
    assert report.index == out
    assert report.seconds["upload"] > 0
    local = build_index(here, tmp_path / "index", model=model, **SETTINGS)
    remote, wanted = Index.open(out), Index.open(tmp_path / "index")
    assert remote.search(QUERY, k=9) == wanted.search(QUERY, k=9)
    assert report.generation.startswith("g000001-")
    # The same bytes, but for the name of the generation.
    sums = [
        sorted(entry.sha256 for entry in index.manifest.files.values())
        for index in (remote, wanted)
    ]
    assert sums[0] == sums[1]
    assert not staging_folder(location(out), None).exists()
    assert local.passages == report.passages == 60

    with pytest.raises(IndexExists, match="--overwrite"):
        build_index(uri, out, model=model, **SETTINGS)
    again = build_index(uri, out, model=model, overwrite=True, **SETTINGS)
    assert again.generation.startswith("g000002-")
    assert read_current(location(out)).parent == report.generation
    assert len(remote.search(QUERY, k=60)) == 60  # opened before, and undisturbed


def test_a_server_killed_while_uploading_leaves_nothing_and_the_same_command_goes_on(
    ray_cluster, corpus, bucket, model, door
):
    uri, _ = corpus
    out = f"s3://{bucket}/out"
    door.start()
    progress = Recorder("upload", door.kill)
    with pytest.raises(Unavailable, match="does not answer"):
        build_index(uri, out, model=model, progress=progress, **SETTINGS)
    assert any("the same command goes on" in note for note in progress.notes)
    door.start()
    assert live_generation(location(out)) is None
    with pytest.raises(IndexExists, match="unfinished build lies here, with other arguments"):
        build_index(uri, out, model=model, **{**SETTINGS, "bits": 4})
    again = Recorder()
    report = build_index(uri, out, model=model, progress=again, **SETTINGS)
    assert again.stages == ["upload"]  # nothing was encoded twice
    assert live_generation(location(out)) == report.generation
    assert len(Index.open(out).search(QUERY_LD, k=60)) == 60


def test_a_driver_killed_after_the_swap_finds_its_own_generation(
    ray_cluster, corpus, bucket, model, monkeypatch
):
    uri, _ = corpus
    out = f"s3://{bucket}/out"
    with monkeypatch.context() as patched:
        patched.setattr("cluster.remote_build._upload", lambda *about: (_upload(*about), 1 / 0))
        with pytest.raises(ZeroDivisionError):
            build_index(uri, out, model=model, **SETTINGS)
    live = live_generation(location(out))
    report = build_index(uri, out, model=model, **SETTINGS)  # no --overwrite: it is our own
    assert report.generation == live


def test_restart_throws_away_what_was_begun_for_a_uri(bucket, tmp_path):
    kept = []

    def stopped(folder):
        kept.append((folder / "staging").exists())
        (folder / "staging").mkdir(parents=True, exist_ok=True)
        raise RuntimeError

    def ask(bits, **options):
        request = {"settings": {"bits": bits}, "corpus": []}
        options = {"overwrite": False, "staging": tmp_path, "progress": SilentProgress()} | options
        build_to_bucket(location(f"s3://{bucket}/out"), request, stopped, **options)

    with pytest.raises(RuntimeError):
        ask(2)
    with pytest.raises(IndexExists, match=r"bits differ.*--restart"):
        ask(4)
    with pytest.raises(RuntimeError):
        ask(4, restart=True)
    with pytest.raises(RuntimeError):
        ask(4)
    assert kept == [False, False, True]


def test_staging_goes_with_a_uri_alone(tmp_path, corpus):
    with pytest.raises(InvalidInput, match="leave --staging out"):
        build_index(corpus[1], tmp_path / "index", staging=tmp_path / "s")


def test_several_nodes_need_a_folder_that_all_of_them_see(
    ray_cluster, corpus, bucket, model, monkeypatch, tmp_path
):
    @contextmanager
    def of_two_nodes(**_about):
        yield dataclasses.replace(ray_cluster, node_count=2)

    monkeypatch.setattr("cluster.index_job.ray_session", of_two_nodes)
    out = f"s3://{bucket}/out"
    with pytest.raises(InvalidInput, match="Ray has 2 nodes; give --staging"):
        build_index(corpus[0], out, model=model, **SETTINGS)
    build_index(corpus[0], out, model=model, staging=tmp_path / "shared", **SETTINGS)
    assert len(Index.open(out)) == 60


def cli(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["tartan", *arguments])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_the_command_line_looks_into_buckets(remote_index, local_index, monkeypatch, capsys):
    code, out, _ = cli(monkeypatch, capsys, "index", "inspect", remote_index, "--json")
    assert code == 0
    assert json.loads(out)["passages"] == 90
    code, out, _ = cli(monkeypatch, capsys, "index", "verify", remote_index)
    assert code == 0
    assert f"{remote_index}: whole." in out
    code, _, err = cli(monkeypatch, capsys, "search", "x", "--index", remote_index)
    assert code == 2  # it was built from vectors
    assert "knows no model" in err


def test_verify_names_what_is_damaged_in_the_bucket(remote_index, s3, bucket, monkeypatch, capsys):
    Index.open(remote_index)  # what is cached must not hide it
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    key = next(item["Key"] for item in listed if item["Key"].endswith("postings.npy"))
    data = bytearray(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
    data[-9] ^= 4
    s3.put_object(Bucket=bucket, Key=key, Body=bytes(data))
    code, _, err = cli(monkeypatch, capsys, "index", "verify", remote_index)
    assert code == 1
    assert f"s3://{bucket}/{key}" in err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("index", "build", "s3://nowhere-at-all/c.jsonl", "--out", "{tmp}/i"), 3),
        (("index", "build", "{corpus}", "--out", "s3://nowhere-at-all/i"), 11),
        (("index", "inspect", "s3://nowhere-at-all/i"), 11),
        (("index", "verify", "s3://{bucket}/none"), 5),
        (("search", "x", "--index", "s3://user:password@b/i"), 2),
        (("search", "x", "--index", "abc://b/i"), 2),
    ],
)
def test_exit_codes(corpus, bucket, tmp_path, model, monkeypatch, capsys, arguments, code):
    given = [
        part.format(tmp=tmp_path, corpus=corpus[1], bucket=bucket) if "{" in part else part
        for part in arguments
    ]
    if "build" in given:
        given += ["--model", model]
    found, out, err = cli(monkeypatch, capsys, *given)
    assert found == code, err
    assert not [s for s in (SECRET_KEY, SESSION_TOKEN, "password") if s in out + err]


def test_serving_from_a_bucket_says_no_secret(remote_index, local_index, tmp_path, s3_server):
    """The whole command as users run it; each of its processes fetches what it needs."""
    log = tmp_path / "stderr"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with log.open("w") as errors:
        process = tartan("serve", remote_index, "--port", "0", stderr=errors, env=environment)
        try:
            line = first_line(process)
            assert line.startswith(f"tartan: serving {remote_index} (3 shards"), log.read_text()
            wanted = Index.open(local_index)
            with Client(line.split()[-1]) as client:
                assert list(client.search(QUERY_LD, k=7).hits) == wanted.search(QUERY_LD, k=7)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
    said = line + log.read_text()
    assert not [s for s in (SECRET_KEY, SESSION_TOKEN, ACCESS_KEY) if s in said]
    cached = [path.name for path in (tmp_path / "cache" / "content").iterdir() if path.is_dir()]
    assert len(cached) == 4


@pytest.mark.long
def test_a_build_killed_at_random_moments_publishes_whole_or_nothing(
    s3, bucket, model, tmp_path, door
):
    """kill -9 of the driver's whole process group, of the server, or of neither; then once more."""
    s3.put_object(Bucket=bucket, Key="corpus/a.jsonl", Body=records(400))
    out = f"s3://{bucket}/out"
    arguments = ["index", "build", f"s3://{bucket}/corpus", "--out", out, "--model", model]
    arguments += ["--shards", "3", "--workers", "1"]
    rng = random.Random(17)
    for _ in range(6):
        door.start()
        process = tartan(
            *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(4.0, 25.0))  # a random moment is the point
        if rng.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)
        door.kill()
        process.wait(START_TIMEOUT_S)
        door.start()
        if (live := live_generation(location(out))) is not None:
            assert len(Index.open(out)) == 400
            assert read_current(location(out)).generation == live
        door.kill()
        if live is not None:
            break
    door.start()
    process = tartan(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=START_TIMEOUT_S)
    assert process.returncode in (0, 6), said  # 6: the generation was live already
    assert len(Index.open(out)) == 400
