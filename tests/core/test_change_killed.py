"""Kill -9 in the middle of a change: the index is the old one or the new one, and goes on."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from changes import answers, passage

from colbert_core import Index
from colbert_core.generations import collect, generations
from colbert_core.index import verify

CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[4])
from changes import passage
from colbert_core import Index
from colbert_core.generations import collect

path, command, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
index, count = Index.open(path), 0
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")

def watch(event, args):
    global count
    written = event in WRITES or (event == "open" and args[2] and args[2] & os.O_CREAT)
    if not written or (path not in os.fsdecode(args[0]) and not event.startswith("os.r")):
        return  # what is removed is named relative to its folder
    count += 1
    if count == at:
        os.kill(os.getpid(), signal.SIGKILL)

if command == "gc":
    del index
sys.addaudithook(watch)
if command == "add":
    index.add([passage(90), passage(91)], ["p3", "new"], replace=True)
elif command == "delete":
    index.delete(["p5"])
elif command == "compact":
    index.compact()
else:
    collect(path, keep=0)
print(count)
"""


def run(path: Path, command: str, at: int) -> subprocess.CompletedProcess[str]:
    """Run a change in a process that kills itself before its write number `at`; 0 for none."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(path), command, str(at), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with something to add to, delete from, compact and collect."""
    path = tmp_path_factory.mktemp("killed") / "ix"
    ids = [f"p{n}" for n in range(30)]
    index = Index.build(path, [passage(n) for n in range(30)], ids=ids, shards=2, centroids=16)
    index.delete(["p2"]).compact().delete(["p1"]).add([passage(50)], ["p50"])
    return path


def check_killed(changed: Path, folder: Path, command: str, share: float | None) -> None:
    """Kill at a share of the writes (None: at every one), and look at what is left."""
    whole = Path(shutil.copytree(changed, folder / "whole"))
    before = answers(Index.open(whole), k=99)
    ended = run(whole, command, 0)
    assert ended.returncode == 0, ended.stderr
    writes, after = int(ended.stdout), answers(Index.open(whole), k=99)
    assert writes > 3
    moments = range(1, writes + 1) if share is None else [1 + int(share * writes)]
    for at in moments:
        path = Path(shutil.copytree(changed, folder / f"at-{at}"))
        ended = run(path, command, at)
        assert ended.returncode == -9, (at, ended.stderr)
        verify(path)
        assert answers(Index.open(path), k=99) in (before, after)
        again = run(path, command, 0)
        if answers(Index.open(path), k=99) != after:  # done once more after it was done
            assert again.returncode != 0, (at, again.stdout)
        collect(path, keep=0)
        verify(path)
        assert answers(Index.open(path), k=99) == after
        assert len(generations(path)) == 1
        check_nothing_is_left_over(path)
        shutil.rmtree(path)


def check_nothing_is_left_over(path: Path) -> None:
    files = {one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()}
    manifest = Index.open(path).manifest
    own = {"CURRENT", f"generations/{manifest.generation}.json"}
    assert files == set(manifest.files) | own


@pytest.mark.parametrize("command", ["add", "delete", "compact", "gc"])
def test_a_killed_change_leaves_a_whole_index(changed: Path, tmp_path: Path, command: str) -> None:
    share = random.Random(command).random()
    check_killed(changed, tmp_path, command, share)
    check_killed(changed, tmp_path / "last", command, 0.999)


@pytest.mark.long
@pytest.mark.parametrize("command", ["add", "delete", "compact", "gc"])
def test_a_change_killed_at_any_write_leaves_a_whole_index(
    changed: Path, tmp_path: Path, command: str
) -> None:
    check_killed(changed, tmp_path, command, None)
