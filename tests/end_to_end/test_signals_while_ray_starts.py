"""A signal while Ray starts: what every command made on the disk, and every process, is gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest

from colbert_core.api import Index

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

TIMEOUT_S = 60.0
PROGRAM = """
from cluster.cli import main

main()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder whose name is short enough for Ray to use."""
    path = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def command(name: str, inputs: Path) -> list[str]:
    """A command, and its input made in `inputs`."""
    if name == "serve":
        rng = np.random.default_rng(3)
        vectors = [rng.standard_normal((6, 32), dtype=np.float32) for _ in range(60)]
        Index.build(inputs / "served", vectors, centroids=16, normalize=True)
        return ["serve", str(inputs / "served"), "--port", "0"]
    if name == "demo":
        return ["demo", "--out", str(inputs / "index")]
    records = [{"_id": str(i), "text": f"passage number {i}"} for i in range(50)]
    (inputs / "corpus.jsonl").write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    return ["index", "build", str(inputs / "corpus.jsonl"), "--out", str(inputs / "index")]


def processes_of(folder: Path) -> str:
    """Command lines that name the folder."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return "\n".join(line for line in listed.stdout.splitlines() if str(folder) in line)


@pytest.mark.parametrize("delay_s", [0.0, 0.7, 2.5])
@pytest.mark.parametrize(
    ("name", "number", "code"),
    [
        ("build", signal.SIGINT, 130),
        ("build", signal.SIGTERM, 143),
        ("serve", signal.SIGTERM, 0),
        ("demo", signal.SIGINT, 130),
    ],
)
def test_nothing_is_left(
    folder: Path, tmp_path: Path, name: str, number: signal.Signals, code: int, delay_s: float
) -> None:
    arguments = command(name, tmp_path)
    before = sorted(tmp_path.iterdir())
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    environment |= {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=environment)
    end = time.monotonic() + TIMEOUT_S
    while not list(folder.glob("tartan-ray-*")) and time.monotonic() < end:
        time.sleep(0.01)  # polling another process; there is no event to wait for
    time.sleep(delay_s)  # at whatever point of Ray's start this finds it
    process.send_signal(number)
    assert process.wait(TIMEOUT_S) == code
    assert processes_of(folder) == ""
    assert list(folder.iterdir()) == []
    assert sorted(tmp_path.iterdir()) == before
