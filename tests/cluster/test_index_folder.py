"""A build's place: refused when taken, locked while in use, clean after a failure."""

from __future__ import annotations

import os

import pytest

from cluster.index_folder import building
from colbert_core.errors import IndexExists, InvalidInput


def fail_after_writing(out, error):
    with building(out, overwrite=False) as place:
        (place.staging / "units").mkdir()
        (place.index / "shards" / f"{place.generation}-0000").mkdir(parents=True)
        (place.index / "shards" / f".{place.generation}-0001.77.tmp").mkdir()
        (place.index / "global" / place.generation).mkdir(parents=True)
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_build_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error):
        fail_after_writing(tmp_path / "new" / "index", error)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_others_alone(tmp_path):
    (tmp_path / "shards" / "g000001-aaaaaa-0000").mkdir(parents=True)
    with pytest.raises(RuntimeError):
        fail_after_writing(tmp_path, RuntimeError)
    assert [path.name for path in tmp_path.rglob("*")] == ["shards", "g000001-aaaaaa-0000"]


def test_one_build_at_a_time(tmp_path):
    with building(tmp_path, overwrite=False):
        with (
            pytest.raises(IndexExists, match="another build"),
            building(tmp_path, overwrite=True),
        ):
            pass
        assert (tmp_path / "staging").exists()
    with building(tmp_path, overwrite=False):
        pass


def test_what_a_killed_build_left_in_staging_goes(tmp_path):
    (tmp_path / "staging" / "g000001-killed" / "units").mkdir(parents=True)
    with building(tmp_path, overwrite=False) as place:
        assert [path.name for path in (tmp_path / "staging").iterdir()] == [place.generation]


def test_taken_places_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexExists, match="is a file"), building(tmp_path / "file", overwrite=True):
        pass
    with (
        pytest.raises(IndexExists, match=r"not an index and not empty.*'file'"),
        building(tmp_path, overwrite=True),
    ):
        pass
    index = tmp_path / "index"
    index.mkdir()
    (index / "CURRENT").write_text("{}")
    with pytest.raises(IndexExists, match="--overwrite"), building(index, overwrite=False):
        pass


def test_a_place_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InvalidInput, match="cannot be made"),
        building(tmp_path / "file" / "index", overwrite=False),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidInput, match="cannot be"), building(tmp_path / "i", overwrite=False):
        pass
