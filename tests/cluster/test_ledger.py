"""The ledger: what is written is read back, a torn end does not count, differences are named."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.ledger import (
    Asked,
    Calibrated,
    Compressed,
    CorpusFile,
    Done,
    Embedded,
    Poisoned,
    ShardWritten,
    Staged,
    Started,
    Trained,
    generation_id,
    line_of,
    parse,
)
from cluster.ledger_file import Ledger, committed
from cluster.resuming import differences, without_damaged
from colbert_core.index import Preset, ShardEntry
from colbert_core.index.files import entry_of
from colbert_core.index.manifest import FileEntry
from workers.encoder import UnitResult
from workers.units import Staging

FILE = FileEntry(3, "ab" * 32)


def result(unit, **changes):
    values = {"passages": 9, "tokens": 70, "truncated": 1, "skipped": (), "file": FILE}
    return UnitResult(unit=unit, **(values | changes))


def asked(**changes):
    return Asked(
        {"bits": 2, "model": "m", "dim": None} | changes,
        {"tartan": "0.1.0", "torch": "2.9"},
        (CorpusFile("/c/a.jsonl", 10, 1), CorpusFile("/c/b.jsonl", 20, 2)),
    )


RECORDS = [
    asked(),
    Staged(FILE, ("aa", "bb")),
    Started({"dim": 16}, "cpu", "g000001-12345678"),
    Poisoned(2, (1, 4), ("p1", "p4"), "ValueError: é"),
    Embedded(result(0)),
    Embedded(result(2, skipped=(1, 4))),
    Trained({"codec.json": FILE}),
    Compressed(result(0)),
    Compressed(result(2, skipped=(1, 4))),
    ShardWritten(0, ShardEntry("g000001-12345678-0000", 9, 70, 60), {"codes.npy": FILE}),
    Calibrated((Preset(0.9, 10, 8, 64, 16, 0.5, 0.07, 0.09, 0.91, 33.5),)),
]
LEDGER = b"".join(map(line_of, RECORDS))


def test_what_is_written_is_read_back():
    done = parse(LEDGER)
    assert done.records() == RECORDS
    assert done.skipped_ids == ("p1", "p4")
    assert parse(b"".join(map(line_of, done.records()))) == done


@given(st.integers(0, len(LEDGER)))
def test_a_ledger_torn_anywhere_says_what_its_whole_lines_say(length):
    whole = LEDGER[:length].count(b"\n")
    assert parse(LEDGER[:length]).records() == RECORDS[:whole]


@given(st.integers(0, len(LEDGER) - 1), st.integers(1, 255))
def test_an_altered_line_and_all_after_it_do_not_count(place, change):
    altered = bytearray(LEDGER)
    altered[place] ^= change
    whole = LEDGER[:place].count(b"\n")
    assert parse(bytes(altered)).records() == RECORDS[:whole]


def test_a_later_record_replaces_an_earlier_one():
    done = parse(LEDGER + line_of(Compressed(result(0, tokens=71))))
    assert done.compressed[0].tokens == 71
    assert len(done.records()) == len(RECORDS)


def same(_number, _file):
    return True


def test_the_same_job_does_not_differ():
    assert differences(asked(), asked(), same) == []


def test_settings_and_software_that_differ_are_named():
    now = dataclasses.replace(asked(bits=4, dim=64), software={"tartan": "0.2.0", "torch": "2.9"})
    assert differences(asked(), now, same) == [
        "--bits was 2, now 4",
        "--dim was not given, now 64",
        "tartan was 0.1.0, now 0.2.0",
    ]


def test_files_are_compared_by_content():
    """Another time means: look. Another path of the same content is the same corpus."""
    touched = dataclasses.replace(
        asked(), files=(CorpusFile("/c/a.jsonl", 10, 9), CorpusFile("/elsewhere/b.jsonl", 20, 2))
    )
    looked = []

    def altered(number, file):
        looked.append(file.path)
        return number == 0

    assert differences(asked(), touched, same) == []
    assert differences(asked(), touched, altered) == [
        "/elsewhere/b.jsonl (then /c/b.jsonl) has another content"
    ]
    assert looked == ["/c/a.jsonl", "/elsewhere/b.jsonl"]
    longer = dataclasses.replace(
        asked(), files=(CorpusFile("/c/a.jsonl", 10, 1), CorpusFile("/c/b.jsonl", 1021, 2))
    )
    assert differences(asked(), longer, same) == ["/c/b.jsonl had 20 bytes, now 1,021"]
    fewer = dataclasses.replace(asked(), files=asked().files[:1])
    assert differences(asked(), fewer, same) == ["the corpus had 2 files, now 1"]


def test_a_generation_is_named_for_all_that_decides_it():
    done = parse(LEDGER)
    name = generation_id("g000007", done, {"dim": 16}, "cpu")
    assert name == generation_id("g000007", parse(LEDGER), {"dim": 16}, "cpu")
    assert name.startswith("g000007-")
    others = {
        generation_id("g000007", done, {"dim": 24}, "cpu"),
        generation_id("g000007", done, {"dim": 16}, "cuda"),
        generation_id(
            "g000007", dataclasses.replace(done, asked=asked(bits=4)), {"dim": 16}, "cpu"
        ),
        generation_id(
            "g000007", dataclasses.replace(done, staged=Staged(FILE, ("aa", "cc"))), {}, "cpu"
        ),
    }
    assert len(others | {name}) == 5
    moved = dataclasses.replace(asked(), files=(CorpusFile("/z", 10, 7), CorpusFile("/y", 20, 8)))
    assert generation_id("g000007", dataclasses.replace(done, asked=moved), {"dim": 16}, "cpu") == (
        name
    )


def test_only_what_is_damaged_is_done_again():
    done = parse(LEDGER)
    left = without_damaged(done, [("compressed", 2), ("embedded", 0), ("staged", 0)])
    assert (set(left.compressed), set(left.embedded)) == ({0}, {2})
    assert (left.trained, left.shards, left.staged) == (done.trained, done.shards, done.staged)
    assert without_damaged(done, [("shard", 0)]).shards == {}


def test_nothing_counts_that_was_made_with_a_damaged_codec():
    left = without_damaged(parse(LEDGER), [("trained", 0)])
    assert left.trained is None
    assert not left.compressed
    assert not left.shards
    assert left.calibrated is None
    assert set(left.embedded) == {0, 2}
    assert left.poisoned


@pytest.fixture
def folders(tmp_path):
    index, staging = tmp_path, Staging(tmp_path / "staging")
    staging.create()
    return index, staging


def test_a_ledger_on_disk_goes_on_without_its_torn_end(folders):
    index, staging = folders
    ledger = Ledger.read(index, staging.folder)
    assert ledger.done == Done()
    ledger.begin(RECORDS[0])
    for record in RECORDS[1:]:
        ledger.add(record)
    ledger.close()
    path = staging.folder / "ledger.jsonl"
    assert path.read_bytes() == LEDGER
    path.write_bytes(LEDGER[:-5])
    again = Ledger.read(index, staging.folder)
    again.begin(asked())
    again.add(RECORDS[-1])
    again.close()
    assert path.read_bytes() == LEDGER


def test_committed_files_are_compared_with_their_checksums(folders):
    """Whole, torn, missing, altered: only the first still counts, and nothing unnamed is left."""
    index, staging = folders
    records = [asked(), Started({}, "cpu", "g")]
    for unit in range(4):
        path = staging.chunk_path(unit)
        path.write_bytes(b"chunk %d" % unit)
        records.append(Compressed(result(unit, file=entry_of(path))))
    for unit in (7, 8):
        path = staging.vectors_path(unit)
        path.write_bytes(b"vectors")
        records.append(Embedded(result(unit, file=entry_of(path))))
    staging.vectors_path(9).write_bytes(b"of a worker whose driver died")
    (staging.folder / "chunks" / ".x.tmp").write_bytes(b"half")
    staging.chunk_path(1).write_bytes(b"chu")
    staging.chunk_path(2).unlink()
    staging.chunk_path(3).write_bytes(b"chunk 4")
    staging.vectors_path(8).write_bytes(b"Vectors")

    ledger = Ledger.read(index, staging.folder)
    ledger.begin(asked())
    for record in records:
        ledger.add(record)
    damaged = ledger.forget_damaged()
    ledger.close()
    assert sorted(path[-18:] for path in damaged) == [
        "/chunks/000001.npz",
        "/chunks/000002.npz",
        "/chunks/000003.npz",
        "vectors/000008.npz",
    ]
    assert set(ledger.done.compressed) == {0}
    assert set(ledger.done.embedded) == {7}
    assert [path.name for path in (staging.folder / "vectors").iterdir()] == ["000007.npz"]
    assert not list(staging.folder.glob("*/*.tmp"))


def test_vectors_that_were_used_need_not_be_there(folders):
    index, staging = folders
    done = Done(embedded={0: result(0)}, compressed={0: result(0)})
    assert [key for key, _, _ in committed(done, index, staging.folder)] == [("compressed", 0)]
