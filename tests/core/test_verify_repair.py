"""Damage to an index: that all of it is found and named, and what can be mended is, to the bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from colbert_core import Index
from colbert_core.errors import IndexMissing
from colbert_core.index import check_index, read_current, repair
from colbert_core.index.derive import follows_from

FROZEN = Path(__file__).parents[1] / "fixtures" / "index_v3"


def unit(count: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture(params=["tartan-2", "colbertv2-2"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(FROZEN / request.param / "index", tmp_path / "ix"))


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at if at >= 0 else len(data) // 2] ^= 0x10
    path.write_bytes(data)


def contents(index: Path) -> dict[str, bytes]:
    return {str(p.relative_to(index)): p.read_bytes() for p in index.rglob("*") if p.is_file()}


def test_every_problem_is_reported_with_what_it_means(index: Path) -> None:
    files = sorted(read_current(index).files)
    for name in files:
        flip(index / name)
    report = check_index(index)
    assert [problem.file for problem in report.problems] == files
    assert all(problem.what and problem.means != "unknown" for problem in report.problems)
    manifest = read_current(index)
    for problem in report.problems:
        assert problem.repairable == (follows_from(manifest, problem.file) is not None)


def test_each_file_that_follows_from_others_is_made_again_to_the_bit(index: Path) -> None:
    before, manifest = contents(index), read_current(index)
    made = 0
    for name in manifest.files:
        derivable = follows_from(manifest, name) is not None
        for damage in ("flip", "truncate", "remove"):
            path = index / name
            if damage == "flip":
                flip(path)
            elif damage == "truncate":
                path.write_bytes(path.read_bytes()[:-1])
            else:
                path.unlink()
            done = repair(index)
            assert done.ok == derivable, name
            if derivable:
                assert done.repaired == (name,)
                assert contents(index) == before
                made += 1
            else:
                assert [one.file for one in done.lost] == [name]
                assert done.whole == ()
                path.write_bytes(before[name])
    papers = manifest.codec["name"] == "colbertv2"
    assert made == 3 * (1 + 2 * 2 + (2 + 2) * papers)


def test_all_that_follows_is_made_again_together(index: Path) -> None:
    before, manifest = contents(index), read_current(index)
    gone = [name for name in manifest.files if follows_from(manifest, name) is not None]
    for name in gone:
        (index / name).unlink()
    done = repair(index)
    assert done.ok
    assert sorted(done.repaired) == sorted(gone)
    assert contents(index) == before


def test_what_follows_from_something_damaged_is_left_alone(index: Path) -> None:
    folder = f"shards/{read_current(index).shards[0].id}"
    flip(index / folder / "codes.npy")
    flip(index / folder / "postings.npy")
    before = contents(index)
    done = repair(index)
    assert not done.ok
    assert {one.file: one.why.split("; ")[1] for one in done.lost} == {
        f"{folder}/codes.npy": "it exists once and follows from nothing else",
        f"{folder}/postings.npy": f"it follows from {folder}/codes.npy, which is damaged too",
    }
    assert contents(index) == before


def test_a_whole_index_is_not_touched(index: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in index.rglob("*")}
    done = repair(index)
    assert (done.ok, done.repaired, done.lost) == (True, (), ())
    assert {path: path.stat().st_mtime_ns for path in index.rglob("*")} == before


@pytest.fixture
def generations(tmp_path: Path) -> tuple[Path, list[str]]:
    """An index of three generations, and their ids."""
    index, ids = tmp_path / "ix", []
    for number in range(3):
        built = Index.build(index, unit(30, seed=number), doclens=[3] * 10, overwrite=number > 0)
        ids.append(built.manifest.generation)
    return index, ids


@pytest.mark.parametrize("damage", ["pointer", "manifest", "residuals", "no pointer"])
def test_the_newest_whole_generation_is_made_live_with_consent(
    generations: tuple[Path, list[str]], damage: str
) -> None:
    index, (oldest, middle, live) = generations
    if damage == "pointer":
        (index / "CURRENT").write_bytes(b"{")
        middle, live = live, ""
    elif damage == "no pointer":
        (index / "CURRENT").unlink()
        middle, live = live, ""
    elif damage == "manifest":
        flip(index / "generations" / f"{live}.json")
    else:
        flip(index / "shards" / f"{live}-0000" / "residuals.npy")
    before = contents(index)
    done = repair(index)
    assert not done.ok
    assert done.whole[0] == middle
    assert done.whole[-1] == oldest
    assert contents(index) == before
    done = repair(index, set_current=True)
    assert done.ok
    assert done.generation == middle
    assert "CURRENT" in done.repaired
    assert Index.open(index).manifest.generation == middle
    assert not check_index(index).problems


def test_no_index_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing):
        repair(tmp_path)
    with pytest.raises(IndexMissing):
        check_index(tmp_path)


def resign(index: Path, name: str) -> None:
    """Make manifest and pointer agree with an altered file: only its contents are wrong then."""
    pointer = json.loads((index / "CURRENT").read_text())
    path = index / "generations" / f"{pointer['generation']}.json"
    manifest, data = json.loads(path.read_text()), (index / name).read_bytes()
    manifest["files"][name] = {
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    path.write_text(json.dumps(manifest))
    pointer["manifest_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (index / "CURRENT").write_text(json.dumps(pointer))


def test_contents_that_never_were_right_are_found_below_right_checksums(index: Path) -> None:
    folder = f"shards/{read_current(index).shards[0].id}"
    whole = contents(index)
    for name, at in (
        ("codes.npy", 128),
        ("offsets.npy", 129),
        ("postings.npy", 130),
        ("posting_offsets.npy", 129),
    ):
        flip(index / folder / name, at)
        resign(index, f"{folder}/{name}")
        (problem,) = {p.file for p in check_index(index).problems} & {
            f"{folder}/{other}" for other in (name, "postings.npy", "codes.npy")
        } or {""}
        assert problem, name
        for path, data in whole.items():
            (index / path).write_bytes(data)


def test_a_deep_check_reads_what_checksums_cannot_vouch_for(index: Path) -> None:
    manifest = read_current(index)
    name = f"shards/{manifest.shards[1].id}/texts.arrow"
    path = index / name
    path.write_bytes(path.read_bytes().replace(b'{"n":', b'["n":'))
    resign(index, name)
    assert not check_index(index).problems
    (problem,) = check_index(index, deep=True).problems
    assert problem.file == name
    assert "are not JSON" in problem.what
