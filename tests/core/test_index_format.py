"""The files of an index: what is written, what is refused, and what verify finds."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from colbert_core import Index
from colbert_core.codec import train_codec
from colbert_core.errors import IndexCorrupt, IndexExists, IndexMissing, InvalidInput
from colbert_core.index import (
    ShardWriter,
    component_bytes,
    describe,
    open_generation,
    predicted_bytes,
    verify,
)
from colbert_core.index.files import ArrayWriter, PackedWriter, map_array, write_packed
from colbert_core.index.postings import build_postings
from colbert_core.packed_ints import PackedInts, packed_array
from colbert_core.posting_lists import decode_list, encode_lists


def passages(count: int, dim: int = 32, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        x = rng.standard_normal((rng.integers(1, 12), dim)).astype(np.float32)
        made.append(x / np.linalg.norm(x, axis=1, keepdims=True))
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "ix"
    texts = [f"text {i}" for i in range(120)]
    metadata = [{"n": i, "ü": "ß"} if i % 2 else {} for i in range(120)]
    Index.build(path, passages(120), texts=texts, metadata=metadata, shards=3)
    return path


@pytest.fixture
def index(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(built, tmp_path / "ix"))


@pytest.mark.parametrize("codec", ["tartan", "colbertv2"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_bytes_follow_the_formula(codec: str, bits: int, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "ix", passages(60), codec=codec, bits=bits, shards=2)
    stored, predicted = component_bytes(index.manifest), predicted_bytes(index.manifest)
    assert 0.4 * predicted["postings"] < stored["postings"] <= predicted.pop("postings")
    assert {name: stored[name] for name in predicted} == predicted
    assert set(stored) - set(predicted) == {"tables", "ids", "texts", "postings"}
    assert sum(stored.values()) == describe(index.manifest)["bytes_total"]


def test_inspect_names_what_users_ask_for(built: Path) -> None:
    about = describe(open_generation(built).manifest)
    wanted = "passages tokens dim centroids shards bits codec bytes_total bytes_per_token bytes"
    assert set(wanted.split()) <= set(about)
    assert (about["passages"], about["shards"]) == (120, 3)


def test_a_whole_index_verifies_and_gives_back_what_was_stored(built: Path) -> None:
    verify(built)
    generation = open_generation(built)
    assert [one for shard in generation.shards for one in shard.ids()] == [
        str(i) for i in range(120)
    ]
    last = generation.shards[2]
    stored = last.stored(last.passages - 1)
    assert (stored.id, stored.text, stored.metadata) == ("119", "text 119", {"n": 119, "ü": "ß"})


def files_of(index: Path) -> list[str]:
    manifest = json.loads(next((index / "generations").glob("*.json")).read_text())
    return sorted(manifest["files"])


def test_verify_finds_a_flipped_bit_in_any_file(index: Path) -> None:
    for name in files_of(index):
        path = index / name
        whole = path.read_bytes()
        broken = bytearray(whole)
        broken[len(broken) // 2] ^= 0x10
        path.write_bytes(bytes(broken))
        with pytest.raises(IndexCorrupt, match=path.name):
            verify(index)
        path.write_bytes(whole)
    verify(index)


def test_opening_refuses_a_truncated_or_missing_file(index: Path) -> None:
    for name in files_of(index):
        path = index / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(IndexCorrupt, match=f"{path.name}: it has"):
            Index.open(index)
        path.unlink()
        with pytest.raises(IndexCorrupt, match="the manifest lists this file"):
            Index.open(index)
        path.write_bytes(whole)


def test_an_edited_manifest_is_noticed(index: Path) -> None:
    path = next((index / "generations").glob("*.json"))
    path.write_bytes(path.read_bytes().replace(b'"bits": 2', b'"bits": 3'))
    with pytest.raises(IndexCorrupt, match="the manifest was altered"):
        Index.open(index)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"generation": "g"}', b"\xff\xfe"])
def test_a_damaged_pointer_is_an_error(index: Path, content: bytes) -> None:
    (index / "CURRENT").write_bytes(content)
    with pytest.raises(IndexCorrupt, match="CURRENT"):
        Index.open(index)


def test_no_index_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(IndexMissing, match="tartan index build"):
        Index.open(tmp_path / "nowhere")


def test_an_index_of_another_version_is_refused(index: Path) -> None:
    from colbert_core.index.manifest import Manifest

    path = next((index / "generations").glob("*.json"))
    raw = json.loads(path.read_text())
    with pytest.raises(IndexCorrupt, match="this program reads 3 to 5: upgrade"):
        Manifest.from_json(json.dumps({**raw, "version": 6}).encode(), "m")
    with pytest.raises(IndexCorrupt, match="this program reads 3 to 5: build the index again"):
        Manifest.from_json(json.dumps({**raw, "version": 2}).encode(), "m")
    with pytest.raises(IndexCorrupt, match=r"unknown keys \['extra'\]"):
        Manifest.from_json(json.dumps({**raw, "extra": 1}).encode(), "m")


def test_version_3_is_read_and_has_no_fields(index: Path) -> None:
    from colbert_core.index.manifest import Manifest

    raw = json.loads(next((index / "generations").glob("*.json")).read_text())
    shards = [{k: v for k, v in shard.items() if k != "fields"} for shard in raw["shards"]]
    old = Manifest.from_json(json.dumps({**raw, "version": 3, "shards": shards}).encode(), "m")
    assert (old.version, old.metadata_fields) == (3, {})


@pytest.mark.parametrize("damage", ["version", "pointer"])
def test_an_index_that_cannot_be_read_is_replaced_by_overwriting(index: Path, damage: str) -> None:
    """The remedy that the error names works."""
    if damage == "pointer":
        (index / "CURRENT").write_text("{")
    else:
        path = next((index / "generations").glob("*.json"))
        older = json.dumps({**json.loads(path.read_text()), "version": 2}).encode()
        path.write_bytes(older)
        pointer = json.loads((index / "CURRENT").read_text())
        pointer["manifest_sha256"] = hashlib.sha256(older).hexdigest()
        (index / "CURRENT").write_text(json.dumps(pointer))
    with pytest.raises(IndexCorrupt):
        Index.open(index)
    assert len(Index.build(index, passages(5), overwrite=True)) == 5
    assert Index.open(index).manifest.parent is None


def test_publishing_again_keeps_the_parent_readable(index: Path) -> None:
    before = Index.open(index)
    first = before.manifest.generation
    with pytest.raises(IndexExists, match="overwrite=True"):
        Index.build(index, passages(5))
    after = Index.build(index, passages(5), overwrite=True)
    assert after.manifest.parent == first
    assert len(before.search(passages(1)[0], k=200)) == 120  # still open on the old generation
    assert len(Index.open(index)) == 5


def test_a_build_that_fails_leaves_nothing_half_written(tmp_path: Path) -> None:
    vectors = passages(40)
    vectors[30] = vectors[30] * np.nan
    with pytest.raises(InvalidInput, match="passage 30 holds NaN"):
        Index.build(tmp_path / "ix", vectors)
    assert not (tmp_path / "ix").exists()


def test_an_abandoned_shard_is_removed(tmp_path: Path) -> None:
    vectors = passages(3)
    codec = train_codec(np.concatenate(vectors), bits=2, centroids=4, total_tokens=20)
    lengths = np.array([len(v) for v in vectors], np.int32)
    with ShardWriter(tmp_path, "s", codec) as writer:  # left without `finish`
        writer.add(codec.compress(np.concatenate(vectors), lengths), lengths, ["a", "b", "c"])
    assert list((tmp_path / "shards").iterdir()) == []
    with ShardWriter(tmp_path, "s", codec) as writer:
        short = codec.compress(vectors[0], lengths[:1])
        with pytest.raises(InvalidInput, match="do not fit"):
            writer.add(short, lengths, ["a", "b", "c"])
        writer.add(codec.compress(np.concatenate(vectors), lengths), lengths, ["a", "b", "c"])
        assert writer.finish().passages == 3
    with pytest.raises(IndexExists, match="written already"):
        ShardWriter(tmp_path, "s", codec)


def test_postings_hold_each_passage_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    codes = rng.integers(0, 17, int(offsets[-1]))
    packed = PackedInts("codes", packed_array(codes, 19), len(codes), 19)
    starts = PackedInts("offsets", packed_array(offsets, len(codes)), len(offsets), len(codes))
    whole = [np.concatenate(part) for part in zip(*build_postings(packed, starts, 20), strict=True)]
    monkeypatch.setattr("colbert_core.index.postings.RUN_TOKENS", 50)  # many runs
    monkeypatch.setattr("colbert_core.index.postings.MOST_PARTS", 1000)
    for room in (1 << 25, 300, 1):  # for all centroids, for some, for one at a time
        monkeypatch.setattr("colbert_core.index.postings.TOKENS_AT_ONCE", room)
        parts = list(build_postings(packed, starts, 20))
        assert len(parts) > 5
        counts, sizes, lists = (np.concatenate(part) for part in zip(*parts, strict=True))
        for in_runs, at_once in zip((counts, sizes, lists), whole, strict=True):
            np.testing.assert_array_equal(in_runs, at_once)
    ends = np.cumsum(sizes)
    owner = np.repeat(np.arange(200), lengths)
    for code in range(20):
        found = decode_list(lists, int(ends[code] - sizes[code]), int(ends[code]), 200)
        assert found.tolist() == sorted(set(owner[codes == code].tolist()))
        assert len(found) == counts[code]


@pytest.mark.parametrize("passages", [1, 2, 7, 8, 9, 200, 70_000])
def test_posting_lists_come_back(passages: int) -> None:
    rng = np.random.default_rng(passages)
    longest = min(passages, 20_000)
    lists = [np.sort(rng.choice(passages, n, False)) for n in rng.integers(0, longest + 1, 9)]
    lists += [np.arange(passages), np.array([0]), np.array([passages - 1])]
    counts = np.array([len(one) for one in lists])
    sizes, data = encode_lists(counts, np.concatenate(lists), passages)
    ends = np.cumsum(sizes)
    assert ends[-1] == len(data)
    for one, size, end in zip(lists, sizes, ends, strict=True):
        np.testing.assert_array_equal(decode_list(data, int(end - size), int(end), passages), one)
        if len(one):
            assert size <= len(one) * (2 + np.log2(passages / len(one))) / 8 + 7


@pytest.mark.parametrize("width", [1, 5, 8, 15, 17, 31, 57])
def test_packed_integers_come_back(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(width)
    values = rng.integers(0, 1 << width, 1000, dtype=np.int64)
    largest = (1 << width) - 1
    data = packed_array(values, largest)
    assert len(data) == -(-1000 * width // 8) + 7
    packed = PackedInts("values", data, 1000, largest)
    np.testing.assert_array_equal(packed.read(0, 1000), values)
    np.testing.assert_array_equal(packed.read(997, 1000), values[997:])
    assert (packed[0], packed[999]) == (values[0], values[999])
    whole = int.from_bytes(data.tobytes(), "little")
    assert (whole >> (13 * width)) & largest == values[13]
    writer = PackedWriter(tmp_path / "packed.npy", largest)
    for start in range(0, 1000, 37):  # appended in pieces, as a build does
        writer.append(values[start : start + 37])
    writer.close()
    np.testing.assert_array_equal(np.load(tmp_path / "packed.npy"), data)
    monkeypatch.setattr("colbert_core.index.files._PACKED_AT_ONCE", 300)
    write_packed(tmp_path / "again.npy", values, largest)
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), data)
    with pytest.raises(ValueError, match="values has"):
        PackedInts("values", data[:-1], 1000, largest)


def test_array_files_are_plain_npy_and_may_be_empty(tmp_path: Path) -> None:
    for rows in (0, 1, 1000):
        with ArrayWriter(tmp_path / "a.npy", np.uint16, (3,)) as writer:
            writer.append(np.arange(rows * 3).reshape(rows, 3))
        assert np.load(tmp_path / "a.npy").shape == (rows, 3)
        assert map_array(tmp_path / "a.npy").shape == (rows, 3)
        assert (tmp_path / "a.npy").stat().st_size == 128 + rows * 6


def test_the_same_vectors_and_seed_give_the_same_bytes(tmp_path: Path) -> None:
    sums = []
    for name, vectors in (("a", passages(50)), ("b", passages(50)), ("c", passages(50, seed=1))):
        manifest = Index.build(tmp_path / name, vectors, shards=2).manifest
        sums.append([manifest.files[name].sha256 for name in sorted(manifest.files)])
    assert sums[0] == sums[1]
    assert sums[0] != sums[2]


def test_runs_of_passages_are_bounded_wherever_the_long_ones_lie(tmp_path: Path) -> None:
    """What is decoded at a time must not grow with passages that are longer than most."""
    lengths = np.array([1] * 50 + [40, 90, 40, 40] + [1] * 50, np.int32)
    vectors = np.random.default_rng(0).standard_normal((int(lengths.sum()), 8))
    index = Index.build(tmp_path / "ix", vectors, doclens=lengths, normalize=True, centroids=4)
    (shard,) = index.generation.shards
    runs = list(shard.runs(0, shard.passages, 80))
    assert [runs[0][0], *(stop for _, stop in runs)] == [0, *(first for first, _ in runs[1:]), 104]
    tokens = [int(lengths[first:stop].sum()) for first, stop in runs]
    assert tokens == [50, 40, 90, 80, 50]
    assert list(shard.runs(7, 9, 80)) == [(7, 9)]
    assert [shard.passage_of(token) for token in (0, 49, 50, 89, 90, 309)] == [
        0,
        49,
        50,
        50,
        51,
        103,
    ]
