"""Kill -9 of drivers, workers and Ray nodes at random moments; a disk that is full, a folder that
cannot be written. The same command goes on, and the bytes are those of an undisturbed build.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import orjson
import pytest
from index_bytes import contents
from processes import DRIVER, descendants
from ray_nodes import ADDRESSES, ray_nodes

from cluster.index_job import build_index
from cluster.progress import SilentProgress
from colbert_core.errors import InvalidInput, JobFailed

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

MODEL = Path(__file__).parents[1] / "fixtures" / "encoder_parity" / "stanford" / "checkpoint"
WORDS = Path(__file__).read_text().split()
SETTINGS = {"model": str(MODEL), "shards": 3, "seed": 1}
TIMEOUT_S = 300.0


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Some 60 units, so that there is something to lose in each stage."""
    rng = random.Random(2)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    records = [{"_id": f"p{i}", "text": " ".join(rng.choices(WORDS, k=25))} for i in range(1500)]
    path.write_bytes(b"\n".join(orjson.dumps(record) for record in records))
    return path


@pytest.fixture(scope="module")
def undisturbed(ray_cluster, corpus, tmp_path_factory):
    """The bytes of an undisturbed build, and the seconds that one takes, start included."""
    out = tmp_path_factory.mktemp("undisturbed") / "index"
    began = time.monotonic()
    process = start(ray_cluster.address, corpus, out)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    return contents(out), time.monotonic() - began


def start(address, corpus, out, workers=2, **environment):
    """A driver in a process of its own, on a Ray that is up."""
    options = {"corpus": str(corpus), "out": str(out), **SETTINGS}
    if workers is not None:
        options["workers"] = workers
    return subprocess.Popen(
        [*DRIVER, orjson.dumps(options).decode()],
        env=os.environ | {"RAY_ADDRESS": address} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_here():
    """Process ids of the encoding workers of this machine's own Ray."""
    found = descendants(os.getpid())
    return [pid for pid, command in found.items() if command.startswith("ray::EncoderWorker")]


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


@pytest.mark.parametrize("seed", range(20))
def test_killed_at_a_random_moment(undisturbed, ray_cluster, corpus, tmp_path, seed):
    """The driver, a worker, or every worker; then, where the driver has gone, the same command."""
    expected, seconds = undisturbed
    rng = random.Random(seed)
    out = tmp_path / "index"
    process = start(ray_cluster.address, corpus, out)
    time.sleep(rng.uniform(0.3, 1.0) * seconds)  # a moment is what is tested
    victim = ("driver", "worker", "workers")[seed % 3]
    if victim == "driver":
        process.kill()
    else:
        kill(workers_here()[: 1 if victim == "worker" else None])
    said, _ = process.communicate(timeout=TIMEOUT_S)
    if victim == "driver" and process.returncode != 0:
        assert not (out / "CURRENT").exists() or (out / "staging").exists()
        process = start(ray_cluster.address, corpus, out, workers=1 + seed % 2)
        said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, said
    assert contents(out) == expected


def wait_for(process, line):
    """Read what a driver says until it says a line."""
    said = []
    for read in process.stdout:
        said.append(read)
        if read == f"{line}\n":
            return
    raise AssertionError(f"the driver ended before {line!r}:\n{''.join(said)}")


def test_nodes_that_leave_and_join_while_a_job_runs(undisturbed, corpus, tmp_path):
    """A node dies with its worker in the middle of a unit, another joins; then the head dies, with
    all of its cluster, and the job goes on with another one."""
    out = tmp_path / "index"
    with ray_nodes() as nodes:
        address = nodes.environment["RAY_ADDRESS"]
        process = start(address, corpus, out, None, **nodes.environment)
        wait_for(process, "encode 3")
        nodes.end(ADDRESSES[1])
        wait_for(process, "encode 12")
        nodes.join(ADDRESSES[1])
        wait_for(process, "encode 30")
        for node in reversed(ADDRESSES):
            nodes.end(node)
        process.kill()  # a driver waits for its cluster to come back for a minute, and then ends
        process.communicate(timeout=TIMEOUT_S)
    assert not (out / "CURRENT").exists()
    with ray_nodes() as nodes:
        address = nodes.environment["RAY_ADDRESS"]
        process = start(address, corpus, out, None, **nodes.environment)
        said, _ = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, said
        assert "going on with an unfinished build" in said
    assert contents(out) == undisturbed[0]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 64 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_disk_that_fills_up_at_each_stage(undisturbed, ray_cluster, corpus, small_disk):
    """Room is given bit by bit; each time, the job ends clearly and goes on later."""
    out, causes, room_kb = small_disk / "index", [], 200
    while True:
        remount(small_disk, f"size={room_kb}k")
        try:
            build_index(corpus, out, workers=2, **SETTINGS)
        except (JobFailed, InvalidInput) as error:
            causes.append(str(error))
            assert re.search(r"No space left on device|requested and \d+ written", causes[-1])
            assert not (out / "CURRENT").exists()
        else:
            break
        room_kb += 150
    assert len(causes) >= 3
    assert contents(out) == undisturbed[0]


def test_a_file_system_that_turns_read_only(undisturbed, ray_cluster, corpus, small_disk):
    """First only the chunks' folder, in the middle of the job; then all of it, at rest."""
    out = small_disk / "index"
    chunks = out / "staging" / "job" / "chunks"

    class Turning(SilentProgress):
        def start(self, stage, total, noun):
            if stage == "encode":
                subprocess.run(["mount", "--bind", str(chunks), str(chunks)], check=True)
                remount(chunks, "bind,ro")

    with pytest.raises(JobFailed, match="Read-only file system"):
        build_index(corpus, out, workers=2, progress=Turning(), **SETTINGS)
    subprocess.run(["umount", str(chunks)], check=True)
    remount(small_disk, "ro")
    with pytest.raises(InvalidInput, match="cannot be written"):
        build_index(corpus, out, workers=2, **SETTINGS)
    remount(small_disk, "rw")
    assert not (out / "CURRENT").exists()
    build_index(corpus, out, workers=2, **SETTINGS)
    assert contents(out) == undisturbed[0]
