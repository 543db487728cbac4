"""The index job as a process of its own, ended from outside: interrupted, terminated, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import orjson
import pytest

from colbert_core.index import verify

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

PROGRAM = """
import signal, sys
from cluster.index_job import build_index
from cluster.progress import PlainProgress

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's "&" had it ignored

class Told(PlainProgress):
    def advance(self, done, tokens=0):
        super().advance(done, tokens)
        print("advanced", self._meter.stage, flush=True)

build_index(sys.argv[1], sys.argv[2], workers=1, progress=Told(sys.stderr))
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["sample", "write"])
def test_a_signal_ends_the_job_and_leaves_nothing(corpus, tmp_path, number, stage):
    process = run_until(corpus, tmp_path / "index", stage)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_after_a_kill_the_same_command_works(corpus, tmp_path):
    out = tmp_path / "index"
    process = run_until(corpus, out, "encode")
    process.kill()
    process.communicate(timeout=60)
    assert (out / "staging").exists()
    assert not (out / "CURRENT").exists()
    again = run_until(corpus, out, "publish")
    again.communicate(timeout=60)
    assert again.returncode == 0
    verify(out)
    assert not (out / "staging").exists()
