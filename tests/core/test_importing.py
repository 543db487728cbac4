"""Importing indexes that other engines really wrote, and refusing damaged ones."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from text_checkpoints import stanford, xmod

from colbert_core import Index
from colbert_core.codec.packing import unpack_planes, unpack_stanford
from colbert_core.errors import (
    CorpusError,
    IndexCorrupt,
    IndexExists,
    IndexMissing,
    InvalidInput,
)
from colbert_core.importing import import_index
from colbert_core.index import check_index
from colbert_core.index.importers import open_source

FIXTURES = Path(__file__).parents[1] / "fixtures"
IMPORTS = FIXTURES / "imports"
CASES = sorted(path.name for path in IMPORTS.iterdir() if path.is_dir())
CHECKPOINT = FIXTURES / "encoder_parity" / "stanford" / "checkpoint"


@pytest.fixture
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a case's index that a test may change."""
    name = getattr(request, "param", "stanford-2")
    return Path(shutil.copytree(IMPORTS / name / "index", tmp_path / "source"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_npy(path: Path, change: object) -> None:
    np.save(path, change(np.load(path)))  # type: ignore[operator]


def note(notes: list[str], words: str) -> bool:
    return any(words in one for one in notes)


@pytest.mark.parametrize("case", CASES)
def test_an_imported_index_ranks_as_its_own_engine(case: str, tmp_path: Path) -> None:
    """The engine found these with everything probed and scored: the same passages, its scores.

    colbert-ai scores in fp32, and its kernel counts a query token whose best match is negative as
    0. fast-plaid scores in fp16: 4 query tokens of about 1 each, which is 4 · 2^-11, before sums;
    so passages whose scores are that close may come in another order.
    """
    stanford = case.startswith("stanford")
    near = 1e-4 if stanford else 0.02
    expected = np.load(IMPORTS / case / "expected.npz")
    report = import_index(IMPORTS / case / "index", tmp_path / "ix", shards=2)
    assert (report.lists_compared > 0, report.lists_differing) == (True, 0)
    assert case.startswith(report.format)
    assert not check_index(tmp_path / "ix", deep=True).problems
    index = Index.open(tmp_path / "ix")
    for query, pids, scores in zip(
        *(expected[name] for name in ("queries", "pids", "scores")), strict=True
    ):
        hits = index.search(query, k=len(index), exact=True, explain=True)
        ours = {
            hit.id: sum(max(match.score, 0) if stanford else match.score for match in hit.matches)
            for hit in hits
        }
        theirs = [ours[str(pid)] for pid in pids]
        np.testing.assert_allclose(theirs, scores, rtol=0, atol=near)
        best = sorted(ours.values(), reverse=True)
        np.testing.assert_allclose(best[: len(pids)], scores, rtol=0, atol=near)
        assert best[0] - best[len(pids)] > 10 * near  # scores tell passages apart
        widely = index.search(query, k=len(pids), nprobe=report.centroids, candidates=len(index))
        assert list(widely.ids) == list(hits.ids[: len(pids)])


def test_every_case_is_there() -> None:
    assert {"stanford-1", "stanford-2", "stanford-4", "fast-plaid-2", "fast-plaid-4"} <= set(CASES)
    assert "fast-plaid-changed" in CASES


@pytest.mark.parametrize("case", CASES)
def test_codes_residuals_centroids_and_buckets_are_unchanged(case: str, tmp_path: Path) -> None:
    opened = open_source(IMPORTS / case / "index")
    import_index(IMPORTS / case / "index", tmp_path / "ix")
    (shard,) = Index.open(tmp_path / "ix").generation.shards
    codec = shard.codec
    assert codec.name == "colbertv2"
    np.testing.assert_array_equal(codec.centroids_CD, opened.centroids_CD.astype(np.float32))
    np.testing.assert_array_equal(codec.tables.levels, opened.weights)
    np.testing.assert_array_equal(codec.tables.cutoffs, opened.cutoffs)
    codes = np.concatenate([codes for _, _, codes, _ in opened.batches()])
    theirs = np.concatenate([residuals for *_, residuals in opened.batches()])
    np.testing.assert_array_equal(shard.codes.read(0, shard.tokens), codes)
    ours = unpack_planes(np.array(shard.arrays.residuals), codec.bits, codec.dim)
    np.testing.assert_array_equal(ours, unpack_stanford(theirs, codec.bits, codec.dim))
    # The scale byte is what our own codec would have written for the decoded vectors.
    decoded = codec.centroids_CD[codes] + codec.tables.levels[ours]
    scales = codec.tables.alpha[np.array(shard.arrays.scales)]
    inverse = np.clip(1 / np.linalg.norm(decoded, axis=1), 0.5, 2.5)
    np.testing.assert_allclose(scales, inverse, rtol=0, atol=1.1 / 255)
    assert len(codes) == shard.tokens
    assert shard.arrays.contexts is None


def test_deleting_and_adding_in_fast_plaid_is_followed(tmp_path: Path) -> None:
    """Ten passages were added, with centroids of their own, and two deleted: ids moved up."""
    case = IMPORTS / "fast-plaid-changed"
    report = import_index(case / "index", tmp_path / "ix")
    index = Index.open(tmp_path / "ix")
    assert len(index) == report.passages == 30 + 10 - 2
    rows = [i for i in range(30) if i not in (3, 17)] + [100 + i for i in range(10)]
    (shard,) = index.generation.shards
    assert [shard.stored(pid).metadata["row"] for pid in range(len(index))] == rows
    assert shard.ids() == [str(pid) for pid in range(len(index))]


@pytest.mark.parametrize("source", ["stanford-2", "fast-plaid-2"], indirect=True)
@pytest.mark.parametrize("shards", [1, 3])
def test_ids_or_a_collection_give_names_and_texts(
    source: Path, shards: int, tmp_path: Path
) -> None:
    names = [f"doc/{i}" for i in range(40)]
    (tmp_path / "ids.txt").write_text("\n".join(names) + "\n")
    import_index(source, tmp_path / "a", ids=tmp_path / "ids.txt", shards=shards)
    index = Index.open(tmp_path / "a")
    assert [one for shard in index.generation.shards for one in shard.ids()] == names
    (tmp_path / "c.tsv").write_text("".join(f"p{i}\ttext of {i}\n" for i in range(40)))
    import_index(source, tmp_path / "b", collection=[str(tmp_path / "c.tsv")], shards=shards)
    hits = Index.open(tmp_path / "b").search(np.eye(16, dtype=np.float32)[:3], k=40)
    assert {hit.id: hit.text for hit in hits} == {f"p{i}": f"text of {i}" for i in range(40)}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("a\n" * 40, "given twice: to passages 0 and 1"),
        ("\n".join(map(str, range(39))), "39 ids and the index has 40 passages"),
        ("\n".join(map(str, range(41))), "41 ids and the index has 40 passages"),
        ("a\n\nb", "ids.txt:2: the id is empty"),
    ],
)
def test_ids_that_do_not_fit_are_refused_before_any_work(
    source: Path, lines: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text(lines)
    with pytest.raises(CorpusError, match=words):
        import_index(source, tmp_path / "ix", ids=tmp_path / "ids.txt")
    assert not (tmp_path / "ix").exists()


def test_text_queries_work_where_the_checkpoint_can_be_loaded(source: Path, tmp_path: Path) -> None:
    about = json.loads((source / "metadata.json").read_text())
    about["config"] |= {"checkpoint": str(CHECKPOINT), "doc_maxlen": 48}
    (source / "metadata.json").write_text(json.dumps(about))
    report = import_index(source, tmp_path / "ix")
    assert report.model == str(CHECKPOINT)
    index = Index.open(tmp_path / "ix")
    assert len(index.search("an example of a question", k=5)) == 5
    assert index.encoder.identity.query_maxlen == 32

    about["config"]["attend_to_mask_tokens"] = True
    (source / "metadata.json").write_text(json.dumps(about))
    report = import_index(source, tmp_path / "other")
    assert report.model is None
    assert note(report.notes, "attend_to_mask_tokens=True and the checkpoint has False")
    with pytest.raises(InvalidInput, match="did not make this index"):
        import_index(source, tmp_path / "third", model=str(CHECKPOINT))


@pytest.mark.parametrize("masked", [True, False])
def test_a_checkpoint_that_keeps_punctuation_is_told_from_one_that_does_not(
    source: Path, tmp_path: Path, masked: bool
) -> None:
    checkpoint = stanford(tmp_path / "model", mask_punctuation=masked)
    about = json.loads((source / "metadata.json").read_text())
    about["config"] |= {"checkpoint": str(checkpoint), "doc_maxlen": 36, "query_maxlen": 12}
    about["config"]["mask_punctuation"] = masked
    (source / "metadata.json").write_text(json.dumps(about))
    assert import_index(source, tmp_path / "ix").model == str(checkpoint)
    about["config"]["mask_punctuation"] = not masked
    (source / "metadata.json").write_text(json.dumps(about))
    report = import_index(source, tmp_path / "other")
    assert note(report.notes, f"mask_punctuation={not masked} and the checkpoint has {masked}")


def test_an_index_in_one_language_of_many(source: Path, tmp_path: Path) -> None:
    """Its metadata do not name the language: what is taken is said, or is what one gives."""
    checkpoint = xmod(tmp_path / "xmod", default="en_XX")
    about = json.loads((source / "metadata.json").read_text())
    about["config"] |= {"checkpoint": str(checkpoint), "doc_maxlen": 36, "query_maxlen": 12}
    (source / "metadata.json").write_text(json.dumps(about))
    report = import_index(source, tmp_path / "ix")
    assert note(report.notes, "en_XX, its default, is taken")
    import_index(source, tmp_path / "de", language="de")
    index = Index.open(tmp_path / "de")
    assert index.encoder.identity.language == "de_DE"
    assert len(index.search("late interaction", k=3)) == 3
    with pytest.raises(InvalidInput, match="no adapters of that name"):
        import_index(source, tmp_path / "fr", language="fr")


def test_a_checkpoint_that_is_not_here_leaves_vectors(source: Path, tmp_path: Path) -> None:
    about = json.loads((source / "metadata.json").read_text())
    about["config"]["checkpoint"] = "/nowhere/colbertv2.0"
    (source / "metadata.json").write_text(json.dumps(about))
    report = import_index(source, tmp_path / "ix")
    assert (report.model, Index.open(tmp_path / "ix").manifest.model) == (None, None)
    assert note(report.notes, "'/nowhere/colbertv2.0' cannot be used here")


# --- corner cases of the formats


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_centroids_keep_their_precision(source: Path, kind: type, tmp_path: Path) -> None:
    """next-plaid has float32, which are not rounded to half of it."""
    shift = kind(1e-4)
    edit_npy(source / "centroids.npy", lambda a: a.astype(kind) + shift)
    edit(source / "metadata.json", next_plaid_compatible=True)
    edit_npy(
        source / "ivf_lengths.npy", lambda a: a.astype(np.int64 if kind == np.float16 else np.int32)
    )
    report = import_index(source, tmp_path / "ix")
    assert (report.format, report.lists_differing) == ("next-plaid", 0)
    codec = Index.open(tmp_path / "ix").generation.codec
    wanted = np.load(source / "centroids.npy").astype(np.float32)
    np.testing.assert_array_equal(codec.centroids_CD, wanted)


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
def test_chunks_in_files_of_their_own_are_read(source: Path, tmp_path: Path) -> None:
    """As next-plaid, fast-plaid before 1.7, and fast-plaid in the middle of an update have it."""
    import_index(source, tmp_path / "merged")
    doclens = json.loads((source / "doclens.0.json").read_text())
    tokens, first = sum(doclens), sum(doclens[:25])
    for name in ("codes", "residuals"):
        rows = np.load(source / f"merged_{name}.npy")[:tokens]
        for number, part in enumerate((rows[:first], rows[first:])):
            np.save(source / f"{number}.{name}.npy", part)
        (source / f"merged_{name}.npy").unlink()
        (source / f"merged_{name}.manifest.json").unlink()
    for number, part in enumerate((doclens[:25], doclens[25:])):
        (source / f"doclens.{number}.json").write_text(json.dumps(part))
    edit(source / "metadata.json", num_chunks=2)
    report = import_index(source, tmp_path / "parts")
    assert report.lists_differing == 0
    one, other = (Index.open(tmp_path / name).manifest.files for name in ("merged", "parts"))
    assert sorted(e.sha256 for n, e in one.items()) == sorted(e.sha256 for n, e in other.items())


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ivf, n: (np.append(ivf, [0, 0, 0]), n), ""),  # padding
        (lambda ivf, n: (ivf, np.append(n, [0, 0])), "lists for"),
        (lambda ivf, n: (ivf, n + 1), "cannot be compared: their lengths add up to"),
        (lambda ivf, n: (ivf[::-1], n), "posting lists differ from its codes"),
        (lambda ivf, n: (ivf, -n), "a list has a negative length"),
        (lambda ivf, n: (ivf.astype(np.float64), n), "they are not integers"),
    ],
)
def test_postings_are_compared_and_ours_rebuilt(
    source: Path, change: object, words: str, tmp_path: Path
) -> None:
    ivf, lengths = np.load(source / "ivf.npy"), np.load(source / "ivf_lengths.npy")
    new = change(ivf, lengths)  # type: ignore[operator]
    np.save(source / "ivf.npy", new[0])
    np.save(source / "ivf_lengths.npy", new[1])
    report = import_index(source, tmp_path / "ix")
    assert note(report.notes, words)
    assert bool(words) == note(report.notes, "posting")
    assert not check_index(tmp_path / "ix", deep=True).problems


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
def test_counts_that_disagree_are_noted_and_the_files_taken(source: Path, tmp_path: Path) -> None:
    edit(source / "metadata.json", num_partitions=3, num_documents=41)
    report = import_index(source, tmp_path / "ix")
    assert note(report.notes, "state 3 centroids")
    assert note(report.notes, "state 41 passages and its files hold 40")
    assert report.passages == 40


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
def test_passages_without_tokens_are_left_out_and_others_keep_their_ids(
    source: Path, tmp_path: Path
) -> None:
    doclens = json.loads((source / "doclens.0.json").read_text())
    (source / "doclens.0.json").write_text(json.dumps([0, *doclens, 0]))
    report = import_index(source, tmp_path / "ix", shards=2)
    assert (report.passages, report.empty) == (40, 2)
    shards = Index.open(tmp_path / "ix").generation.shards
    assert [one for shard in shards for one in shard.ids()] == [str(i) for i in range(1, 41)]


# --- refusals


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nbits": 8}, "8 bits a dimension; indexes of 1, 2 and 4 bits"),
        ({"ternary": True}, "its residuals are ternary"),
        ({"binary": True}, "its residuals are binary"),
    ],
)
def test_other_codecs_are_refused(
    source: Path, changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    edit(source / "metadata.json", **changes)
    with pytest.raises(InvalidInput, match=words):
        import_index(source, tmp_path / "ix")


@pytest.mark.parametrize("source", ["fast-plaid-2"], indirect=True)
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("merged_codes.npy", lambda a: a + 100_000, "and there are"),
        ("merged_codes.npy", lambda a: a - 1000, "and there are"),
        ("merged_codes.npy", lambda a: a[:50], "ends at row"),
        ("merged_codes.npy", lambda a: a.astype(np.float64), "of a wrong type"),
        ("merged_residuals.npy", lambda a: a[:, :3], "which should be"),
        ("centroids.npy", lambda a: a * np.nan, "not finite"),
        ("centroids.npy", lambda a: a[:, :9], "9 dimensions; a multiple of 8"),
        ("bucket_weights.npy", lambda a: a[:3], "do not fit 2 bits"),
        ("bucket_weights.npy", lambda a: a * 1e30, "far from what"),
        ("bucket_cutoffs.npy", lambda a: a * 1e30, "far from what"),
        ("bucket_cutoffs.npy", lambda a: a[::-1], "do not rise"),
    ],
)
def test_a_damaged_source_is_refused_and_nothing_is_left(
    source: Path, name: str, change: object, words: str, tmp_path: Path
) -> None:
    edit_npy(source / name, change)
    with pytest.raises((IndexCorrupt, InvalidInput), match=words):
        import_index(source, tmp_path / "ix")
    assert not [path for path in (tmp_path / "ix").rglob("*") if path.is_file()]


def test_a_flipped_bit_in_any_torch_file_is_noticed(source: Path, tmp_path: Path) -> None:
    for path in sorted(source.glob("*.pt")):
        if path.name == "avg_residual.pt":  # not read
            continue
        whole = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            info = next(i for i in archive.infolist() if i.filename.endswith("/data/0"))
        start = info.header_offset + 30
        at = start + sum(np.frombuffer(whole[start - 4 : start], "<u2").tolist())
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(IndexCorrupt, match=rf"{path.name}.*Bad CRC"):
            import_index(source, tmp_path / path.name)
        path.write_bytes(whole)


def test_a_torch_file_that_would_run_code_is_refused(source: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path, (str(tmp_path / "made"),))

    with zipfile.ZipFile(source / "centroids.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(), protocol=2))
    with pytest.raises(IndexCorrupt, match=r"centroids\.pt: this is not a readable file of torch"):
        import_index(source, tmp_path / "ix")


def test_places_that_are_taken_or_empty(source: Path, tmp_path: Path) -> None:
    import_index(source, tmp_path / "ix")
    with pytest.raises(IndexExists):
        import_index(source, tmp_path / "ix")
    again = import_index(source, tmp_path / "ix", overwrite=True)
    assert Index.open(tmp_path / "ix").manifest.generation == again.generation
    with pytest.raises(IndexMissing, match="no such folder"):
        import_index(tmp_path / "none", tmp_path / "other")
    with pytest.raises(IndexMissing, match="no index of stanford, fast-plaid, next-plaid"):
        import_index(CHECKPOINT, tmp_path / "other")
