"""Generations, rollback and collection, with real processes that read and that are killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from changes import answers, passage

from colbert_core import Index
from colbert_core.change import delete_passages
from colbert_core.errors import IndexCorrupt, IndexExists, IndexMissing, InvalidInput
from colbert_core.generations import collect, generations, rollback
from colbert_core.index import open_generation, read_current, verify, write_lock

READER = """
import sys
import threading
from colbert_core import Index
index = Index.open(sys.argv[1])
print(index.manifest.generation, flush=True)
for line in sys.stdin:
    print(",".join(hit.id for hit in index.search(index.generation.codec.centroids_CD[:3], k=99)),
          flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index that nobody has open."""
    ids = [f"p{n}" for n in range(20)]
    vectors = [passage(n) for n in range(20)]
    Index.build(tmp_path / "ix", vectors, ids=ids, shards=2, centroids=16)
    return tmp_path / "ix"


@pytest.fixture
def index(path: Path) -> Index:
    return Index.open(path)


@contextmanager
def reader(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has opened the live generation."""
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("g")
        yield process
    finally:
        process.kill()
        process.wait(30)


def ask(process: subprocess.Popen[str]) -> set[str]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return set(process.stdout.readline().strip().split(","))


def test_generations_are_listed_newest_first(index: Index) -> None:
    path = index.generation.path
    two = index.delete(["p1"])
    infos = generations(path)
    assert [info.generation for info in infos] == [
        two.manifest.generation,
        index.manifest.generation,
    ]
    newest, oldest = infos
    assert (newest.live, newest.passages, newest.deleted, newest.parent) == (
        True,
        19,
        1,
        oldest.generation,
    )
    assert (oldest.live, oldest.in_use, oldest.delta_shards) == (False, True, 0)


def test_rollback_goes_back_and_forth(index: Index) -> None:
    path = index.generation.path
    two = index.delete(["p1"])
    three = two.add([passage(50)], ["p50"])
    assert rollback(path).generation == two.manifest.generation
    assert answers(Index.open(path)) == answers(two)
    assert rollback(path).generation == index.manifest.generation
    with pytest.raises(IndexMissing, match="first generation"):
        rollback(path)
    assert rollback(path, three.manifest.generation) == three.manifest
    with pytest.raises(IndexMissing, match="'g000099-abcdef' cannot be opened"):
        rollback(path, "g000099-abcdef")
    rollback(path, index.manifest.generation)
    four = index.add([passage(51)], ["p51"])  # from what is live now
    assert four.manifest.parent == index.manifest.generation
    assert four.manifest.generation.startswith("g000004-")
    assert len(four) == 21
    with write_lock(path), pytest.raises(IndexExists):
        rollback(path)


def test_rollback_to_what_lost_a_file_is_refused(index: Index) -> None:
    path = index.generation.path
    two = index.delete(["p1"])
    index.compact()
    stones = next(shard.tombstones for shard in two.manifest.shards if shard.tombstones)
    (path / stones.file).unlink()
    with pytest.raises(IndexCorrupt, match="tombstones"):
        rollback(path, two.manifest.generation)
    verify(path)


def test_collection_keeps_the_live_one_and_the_newest(path: Path) -> None:
    first = read_current(path).generation
    names = [first, *(delete_passages(path, [f"p{n}"]).generation for n in range(4))]
    would = collect(path, keep=2, dry_run=True)
    assert len(generations(path)) == 5
    done = collect(path, keep=2)
    assert done == would
    assert (done.removed, done.kept) == ((names[1], names[0]), (names[4], names[3], names[2]))
    assert done.freed_bytes > 0
    verify(path)
    assert len(Index.open(path)) == 16
    rollback(path, names[2])
    assert collect(path, keep=0).kept == (names[2],)  # the live one, old as it is
    verify(path)
    assert len(Index.open(path)) == 18
    with pytest.raises(InvalidInput, match="keep is -1"):
        collect(path, keep=-1)


def test_collection_after_compaction_frees_the_old_shards(path: Path) -> None:
    old = [shard.id for shard in read_current(path).shards]
    compact = Index.open(path).delete(["p1", "p19"]).compact()
    assert collect(path, keep=0).freed_bytes > 0
    assert not [one for one in old if (path / "shards" / one).exists()]
    assert answers(compact) == answers(Index.open(path))
    verify(path)


def test_a_generation_that_a_process_has_open_is_not_collected(path: Path) -> None:
    old = read_current(path).generation
    with reader(path) as process:
        everything = ask(process)
        assert "p1" in everything
        compact = Index.open(path).delete(["p1"]).compact()
        done = collect(path, keep=0)
        assert done.in_use == (old,)
        assert [info.in_use for info in generations(path)] == [True, True]
        assert ask(process) == everything
        assert len(open_generation(path, generation=old).shards) == 2  # as a restarted server does
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    assert collect(path, keep=0).removed == (old,)
    with pytest.raises(IndexMissing):
        open_generation(path, generation=old)
    assert answers(compact) == answers(Index.open(path))


def test_a_folder_that_cannot_be_written_is_opened_and_protected(path: Path) -> None:
    folders = [path, *(one for one in path.rglob("*") if one.is_dir())]
    try:
        for folder in folders:
            folder.chmod(0o555)
        opened = open_generation(path)
        assert opened.lease is not None
        assert opened.lease.protects
        assert generations(path)[0].in_use
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_without_locks_opening_works_and_says_so(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    opened = open_generation(index.generation.path)
    assert opened.lease is not None
    assert not opened.lease.protects


def test_what_killed_writers_left_is_collected(index: Index) -> None:
    path = index.generation.path
    shutil.copytree(path / "shards" / index.manifest.shards[0].id, path / "shards/g000009-aa-0000")
    (path / "shards" / ".g000009-aa-0001.77.tmp").mkdir()
    (path / "tombstones").mkdir()
    (path / "tombstones" / ".g000009-aa-0000.tmp").write_bytes(b"x")
    (path / "generations" / ".g000009-aa.json.7.tmp").write_bytes(b"x")
    (path / ".CURRENT.7.tmp").write_bytes(b"x")
    shutil.copytree(path / "global" / index.manifest.codec_id, path / "global" / "g000009-aa")
    done = collect(path, keep=0)
    assert len(done.files) == 6
    verify(path)
    assert sorted(one.name for one in path.iterdir()) == [
        "CURRENT",
        "generations",
        "global",
        "shards",
        "tombstones",
    ]


def test_work_of_interrupted_jobs_stays_unless_asked(index: Index) -> None:
    path = index.generation.path
    (path / "staging" / "g000009-aa").mkdir(parents=True)
    (path / "staging" / "g000009-aa" / "unit").write_bytes(b"x")
    (path / "staging" / "add").mkdir()  # of an add, which begins anew
    (path / "shards" / "g000009-aa-0000").mkdir()
    kept = collect(path)
    assert kept.unfinished
    assert kept.files == ("staging/add",)
    done = collect(path, unfinished=True)
    assert done.files == ("shards/g000009-aa-0000", "staging")
    assert not (path / "staging").exists()


def test_a_manifest_that_cannot_be_read_stops_collection(index: Index) -> None:
    path = index.generation.path
    index.delete(["p1"])
    name = index.manifest.generation
    raw = json.loads((path / "generations" / f"{name}.json").read_bytes()) | {"version": 99}
    (path / "generations" / f"{name}.json").write_text(json.dumps(raw))
    with pytest.raises(IndexCorrupt, match="version is 99"):
        collect(path, keep=0)
    verify(path)


def test_an_open_that_meets_a_collector_waits(path: Path) -> None:
    name = read_current(path).generation
    manifest = path / "generations" / f"{name}.json"
    descriptor = os.open(manifest, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    threading.Timer(0.2, os.close, [descriptor]).start()
    assert len(open_generation(path, generation=name).shards) == 2
