"""A build's place: refused when taken, locked while in use; what was begun is kept or removed."""

from __future__ import annotations

import errno
import json
import os

import pytest

from cluster.index_folder import building
from cluster.ledger import Asked, Compressed, CorpusFile, Staged, Started
from cluster.ledger_file import Ledger
from colbert_core.errors import CorpusError, IndexExists, InvalidInput, JobFailed
from colbert_core.index.files import entry_of
from workers.encoder import UnitResult

ASKED = Asked({"bits": 2}, {"tartan": "1"}, ())
OTHER = Asked({"bits": 4}, {"tartan": "1"}, ())
GENERATION = "g000001-aaaaaaaa"


def work(place, *, encoded=True):
    """What a job has done when it is cut short: read, started, and one unit."""
    place.ledger.begin(ASKED)
    (place.staging / "chunks").mkdir(exist_ok=True)
    plan = place.staging / "corpus.json"
    plan.write_text("{}")
    place.ledger.add(Staged(entry_of(plan), ()))
    place.ledger.add(Started({}, "cpu", GENERATION))
    (place.index / "shards" / f"{GENERATION}-0000").mkdir(parents=True)
    (place.index / "shards" / f".{GENERATION}-0001.77.tmp").mkdir()
    (place.index / "global" / GENERATION).mkdir(parents=True)
    if encoded:
        file = entry_of(plan)
        place.ledger.add(Compressed(UnitResult(0, 1, 1, 0, (), file)))


def cut_short(out, error, *, notes=None, encoded=True, **options):
    options = {"overwrite": False} | options
    with building(out, ASKED, note=([] if notes is None else notes).append, **options) as place:
        work(place, encoded=encoded)
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_what_was_done_is_kept_and_gone_on_with(tmp_path, error):
    out, notes = tmp_path / "new" / "index", []
    with pytest.raises(error) as raised:
        cut_short(out, error(), notes=notes)
    assert "run the same command again" in notes[-1]
    assert notes[-1] in raised.value.__notes__
    with building(out, ASKED, overwrite=False) as place:
        assert place.resumed
        assert place.ledger.done.started.generation == GENERATION
        assert set(place.ledger.done.compressed) == {0}
    assert not (out / "staging").exists()


def test_a_job_that_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(CorpusError):
        cut_short(tmp_path / "new" / "index", CorpusError("bad"), encoded=False)
    assert list(tmp_path.iterdir()) == []


def test_nothing_read_is_nothing_kept(tmp_path):
    def interrupted():
        with building(tmp_path / "index", ASKED, overwrite=False) as place:
            place.ledger.begin(ASKED)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_others_are_left_alone(tmp_path):
    (tmp_path / "shards" / "g000001-bbbbbb-0000").mkdir(parents=True)
    with pytest.raises(CorpusError):
        cut_short(tmp_path, CorpusError("bad"), encoded=False)
    assert [path.name for path in tmp_path.rglob("*")] == ["shards", "g000001-bbbbbb-0000"]


def test_another_job_is_refused_and_says_what_differs(tmp_path):
    with pytest.raises(RuntimeError):
        cut_short(tmp_path, RuntimeError())
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    with (
        pytest.raises(IndexExists, match=r"--bits was 2, now 4\. Run .*--restart"),
        building(tmp_path, OTHER, overwrite=False),
    ):
        pass
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    with building(tmp_path, OTHER, overwrite=False, restart=True) as place:
        assert not place.resumed
        assert place.ledger.done.asked is None
        left = {path.name for path in tmp_path.rglob("*")}
        assert left == {"global", "shards", "staging", "job"}


def test_a_changed_corpus_is_another_job(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("one")

    def asked():
        about = path.stat()
        return Asked({}, {}, (CorpusFile(str(path), about.st_size, about.st_mtime_ns),))

    def begun(error):
        with building(tmp_path / "i", asked(), overwrite=False) as place:
            if not place.resumed:
                place.ledger.begin(asked())
                place.ledger.add(Staged(entry_of(path), (entry_of(path).sha256,)))
            raise error(place.resumed)

    with pytest.raises(RuntimeError, match="False"):
        begun(RuntimeError)
    os.utime(path, ns=(1, 1))
    with pytest.raises(RuntimeError, match="True"):  # another time, the same content
        begun(RuntimeError)
    path.write_text("two")
    with (
        pytest.raises(IndexExists, match=r"a\.jsonl has another content"),
        building(tmp_path / "i", asked(), overwrite=False),
    ):
        pass


def publish(index, generation, parent=None):
    """A manifest and `CURRENT`, as far as a place looks at them."""
    from hashlib import sha256

    from colbert_core.index import Manifest
    from colbert_core.index.manifest import FileEntry

    codec = {"name": "tartan", "bits": 2, "dim": 8, "centroids": 1}
    files = {f"global/{generation}/codec.json": FileEntry(2, "0" * 64)}
    manifest = Manifest(generation, parent, "", generation, codec, (), files)
    (index / "generations").mkdir(exist_ok=True)
    data = manifest.to_json()
    (index / "generations" / f"{generation}.json").write_bytes(data)
    pointer = {"generation": generation, "manifest_sha256": sha256(data).hexdigest()}
    (index / "CURRENT").write_text(json.dumps(pointer))


@pytest.mark.parametrize("later", [False, True])
def test_a_job_that_was_killed_after_it_published_is_done(tmp_path, later):
    """Only the tidying up was left; an index that has changed since is not taken back."""
    with pytest.raises(RuntimeError):
        cut_short(tmp_path, RuntimeError())
    publish(tmp_path, GENERATION)
    if later:
        publish(tmp_path, "g000002-cccccccc", GENERATION)
    with building(tmp_path, ASKED, overwrite=False) as place:
        assert place.published == GENERATION
    assert not (tmp_path / "staging").exists()
    assert (tmp_path / "shards" / f"{GENERATION}-0000").exists()
    with pytest.raises(IndexExists, match="--overwrite"):
        cut_short(tmp_path, RuntimeError())


def test_a_full_disk_ends_clearly_and_keeps_what_is_done(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x"))
    with pytest.raises(JobFailed, match=r"/x: it cannot be written: No space left.*same command"):
        cut_short(tmp_path, full)
    assert set(Ledger.read(tmp_path, tmp_path / "staging" / "job").done.compressed) == {0}


def test_a_full_disk_as_numpy_sees_it(tmp_path):
    with pytest.raises(JobFailed, match=r"it cannot be written: 8 requested and 2 written; free"):
        cut_short(tmp_path / "numpy", OSError("8 requested and 2 written"))
    with pytest.raises(TimeoutError):
        cut_short(tmp_path / "ray", TimeoutError("no answer"))


def test_one_build_at_a_time(tmp_path):
    with building(tmp_path, ASKED, overwrite=False):
        with (
            pytest.raises(IndexExists, match="another build"),
            building(tmp_path, ASKED, overwrite=True),
        ):
            pass
        assert (tmp_path / "staging").exists()
    with building(tmp_path, ASKED, overwrite=False):
        pass


def test_what_is_no_job_in_staging_goes(tmp_path):
    (tmp_path / "staging" / "g000001-killed" / "units").mkdir(parents=True)
    with building(tmp_path, ASKED, overwrite=False):
        assert [path.name for path in (tmp_path / "staging").iterdir()] == ["job"]


def test_taken_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(IndexExists, match="is a file"),
        building(tmp_path / "file", ASKED, overwrite=True),
    ):
        pass
    with (
        pytest.raises(IndexExists, match=r"not an index and not empty.*'file'"),
        building(tmp_path, ASKED, overwrite=True),
    ):
        pass
    index = tmp_path / "index"
    index.mkdir()
    (index / "CURRENT").write_text("{}")
    with pytest.raises(IndexExists, match="--overwrite"), building(index, ASKED, overwrite=False):
        pass


def test_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidInput, match="cannot be made"),
        building(tmp_path / "file" / "index", ASKED, overwrite=False),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with (
        pytest.raises(InvalidInput, match="cannot be"),
        building(tmp_path / "i", ASKED, overwrite=False),
    ):
        pass
