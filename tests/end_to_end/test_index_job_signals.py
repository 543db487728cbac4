"""The index job as a process of its own, ended from outside: interrupted, terminated, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import orjson
import pytest
from index_bytes import contents

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

PROGRAM = """
import sys
from cluster.index_job import build_index
from cluster.progress import PlainProgress

class Told(PlainProgress):
    def advance(self, done, tokens=0):
        super().advance(done, tokens)
        print("advanced", self._meter.stage, flush=True)

build_index(sys.argv[1], sys.argv[2], workers=1, shards=2, progress=Told(sys.stderr))
"""


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    records = [{"_id": str(i), "text": f"passage number {i} " * 40} for i in range(200)]
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    return path


def run_until(corpus, out, stage):
    """Start a build and return once it has advanced in a stage."""
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(corpus), str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    for line in process.stdout:
        if line == f"advanced {stage}\n":
            return process
    raise AssertionError(f"the build ended before {stage}: {process.stderr.read()}")


@pytest.fixture
def undisturbed(corpus, tmp_path):
    process = run_until(corpus, tmp_path / "undisturbed", "publish")
    process.communicate(timeout=120)
    return contents(tmp_path / "undisturbed")


def finish(corpus, out):
    """The same command again; it must not read the corpus anew."""
    process = run_until(corpus, out, "publish")
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "going on with an unfinished build" in said
    assert "read:" not in said
    return contents(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_after_a_signal_the_same_command_goes_on(corpus, undisturbed, tmp_path, number):
    """In three stages of one job: nothing is published, and what was done is kept."""
    out = tmp_path / "index"
    for stage in ("sample", "encode", "write"):
        process = run_until(corpus, out, stage)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        assert process.returncode != 0
        assert ("run the same command again" in said) == (number != signal.SIGKILL)
        assert not (out / "CURRENT").exists()
    assert finish(corpus, out) == undisturbed
