"""Filters over an index: against plain Python over the JSON, and how many hits there are."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from colbert_core import Index
from colbert_core.errors import CorpusError, IndexCorrupt, QueryError
from colbert_core.filters import And, Eq, Exists, Filter, In, Not, Or, Prefix, Range, parse_filter
from colbert_core.filters.check import merge_types
from colbert_core.index import metadata_fields
from colbert_core.index.metadata import MetadataReader, write_metadata
from colbert_core.index.metadata_fields import flatten, type_of
from colbert_core.index.passages import PassageWriter
from colbert_core.search import selective
from colbert_core.types import F32

# ---------------------------------------------------------------- the reference


def plain(wanted: Filter, row: dict[str, Any]) -> bool:
    """What a filter means, of one passage's metadata as JSON."""
    if isinstance(wanted, Not):
        return not plain(wanted.of, row)
    if isinstance(wanted, And):
        return all(plain(one, row) for one in wanted.of)
    if isinstance(wanted, Or):
        return any(plain(one, row) for one in wanted.of)
    value = dict(flatten(row)).get(wanted.field)  # type: ignore[attr-defined]
    if value is None:
        return False
    if isinstance(wanted, Exists):
        return True
    return any(fits(wanted, one) for one in (value if isinstance(value, list) else [value]))


def fits(wanted: Filter, value: Any) -> bool:
    if isinstance(wanted, Eq):
        return bool(value == wanted.value)
    if isinstance(wanted, In):
        return value in wanted.values
    if isinstance(wanted, Prefix):
        return str(value).startswith(wanted.prefix)
    assert isinstance(wanted, Range)
    low, high = wanted.low, wanted.high
    above = low is None or value > low or (value == low and not wanted.above)
    return above and (high is None or value < high or (value == high and not wanted.below))


# ---------------------------------------------------------------- random metadata, random filters

words = st.sampled_from(["", "a", "ab", "abc", "b", "é", "日本", "z" * 300])
finite = st.floats(allow_nan=False, allow_infinity=False)
whole = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
rows = st.fixed_dictionaries(
    {},
    optional={
        "word": words,
        "maybe": st.none() | words,
        "whole": whole,
        "number": st.one_of(st.integers(-3, 3), st.floats(-3, 3), finite),
        "flag": st.booleans(),
        "tags": st.lists(st.none() | words, max_size=3) | words,
        "numbers": st.lists(st.integers(-3, 3) | st.floats(-3, 3), max_size=3),
        "deep": st.fixed_dictionaries({}, optional={"er": whole, "est": st.just({})}),
        "mixed": st.integers(0, 3) | words,
        "people": st.lists(st.just({"name": "x"}), max_size=2),
    },
)
ends = st.one_of(whole, st.floats(-4, 4), finite)


def about(field: str, of: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    name = st.just(field)
    return st.one_of(
        st.builds(Eq, name, of),
        st.builds(In, name, st.lists(of, max_size=3).map(tuple)),
        st.builds(Exists, name),
    )


def ordered(field: str, of: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    name = st.just(field)
    low = st.builds(lambda f, v, o: Range(f, low=v, above=o), name, of, st.booleans())
    high = st.builds(lambda f, v, o: Range(f, high=v, below=o), name, of, st.booleans())
    both = st.builds(Range, name, of, of, st.booleans(), st.booleans())
    return about(field, of) | low | high | both


strings = [
    ordered(f, words) | st.builds(Prefix, st.just(f), words) for f in ("word", "maybe", "tags")
]
numeric = [ordered(field, ends) for field in ("whole", "number", "numbers", "deep.er")]
others = [
    about("flag", st.booleans()),
    st.builds(Exists, st.sampled_from(["mixed", "people", "deep.est", "nobody"])),
    about("nobody", ends),
]
wanted_filters = st.recursive(
    st.one_of(*strings, *numeric, *others),
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)


class Stored:
    """Enough of a shard for a matcher: metadata on disk, and no vectors."""

    windows = None

    def __init__(self, folder: Path, metadata: list[dict[str, Any]]) -> None:
        import json

        with PassageWriter(folder) as writer:
            ids = [str(number) for number in range(len(metadata))]
            texts = [json.dumps(row) if row else None for row in metadata]
            writer.append(ids, [None] * len(ids), texts)
        self.passages = len(metadata)
        self.metadata = MetadataReader(folder, self.passages, write_metadata(folder))


def as_stored(row: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
    """A row whose numbers are what their columns hold: of a field with fractions, float64."""
    flat = {}
    for name, value in flatten(row):
        to = float if "float64" in fields.get(name, "") else (lambda one: one)
        flat[name] = [to(one) for one in value] if isinstance(value, list) else to(value)
    return flat


def check(folder: Path, metadata: list[dict[str, Any]], wanted: list[Filter]) -> None:
    from colbert_core.search import Matcher

    shard = Stored(folder, metadata)
    matcher = Matcher(shard)  # type: ignore[arg-type]
    fields = shard.metadata.fields
    kinds: dict[str, str] = {}
    for row in metadata:
        for name, value in flatten(row):
            kind = type_of(value)
            kinds[name] = merge_types(kinds[name], kind) if name in kinds else kind
    assert fields == dict(sorted(kinds.items()))
    for one in wanted:
        expected = [plain(one, as_stored(row, fields)) for row in metadata]
        assert matcher.allowed(one).tolist() == [int(yes) for yes in expected], str(one)
        assert matcher.allowed(one) is matcher.allowed(parse_filter(str(one)))


@pytest.mark.parametrize("stored", [0.0, -0.0])
@pytest.mark.parametrize("asked", [0.0, -0.0, 0])
def test_both_zeros_are_one_number(tmp_path: Path, stored: float, asked: float) -> None:
    wanted = [In("numbers", (1, asked)), In("numbers", (asked,)), Eq("numbers", asked)]
    check(tmp_path, [{"numbers": [stored]}, {"numbers": [0.5]}, {"numbers": stored}], wanted)


FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
cases = (st.lists(rows, min_size=1, max_size=12), st.lists(wanted_filters, min_size=1, max_size=6))


@FEW
@given(*cases)
def test_columns_say_what_the_json_says(
    tmp_path_factory: pytest.TempPathFactory, metadata: list[Any], wanted: list[Filter]
) -> None:
    check(tmp_path_factory.mktemp("m"), metadata, wanted)


@pytest.mark.long
@settings(FEW, max_examples=5000)
@given(*cases)
def test_columns_say_what_the_json_says_long(
    tmp_path_factory: pytest.TempPathFactory, metadata: list[Any], wanted: list[Filter]
) -> None:
    check(tmp_path_factory.mktemp("m"), metadata, wanted)


def test_repeated_strings_are_numbered_over_many_batches(tmp_path: Path) -> None:
    langs = ["de", "en", "fr", None]
    metadata = [{"lang": langs[i % 4], "url": f"u{i}", "n": i} for i in range(10_000)]
    check(
        tmp_path,
        metadata,
        [
            parse_filter(t)
            for t in ("lang = 'fr'", "lang >= 'en'", "url prefix 'u99'", "n < 4097.5")
        ],
    )
    column = MetadataReader(tmp_path, 10_000, {"lang": "string"}).column("lang")
    assert column is not None
    assert len(column.chunks) == 3
    assert str(column.type).startswith("dictionary")


def test_the_file_follows_from_the_texts(tmp_path: Path) -> None:
    Stored(tmp_path, [{"a": i % 3, "b": ["x"] * (i % 2), "c": "ü"} for i in range(100)])
    first = (tmp_path / "metadata.arrow").read_bytes()
    write_metadata(tmp_path)
    assert (tmp_path / "metadata.arrow").read_bytes() == first


def test_a_shard_has_a_limit_of_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_fields, "MAX_FIELDS", 3)
    shard = Stored(tmp_path, [{"d": 1, "c": 2, "b": 3, "a": 4}, {"d": 5, "c": 1}])
    assert shard.metadata.fields == {"*": "json", "a": "int64", "c": "int64", "d": "int64"}


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    fields = Stored(tmp_path, [{"a": i} for i in range(50)]).metadata.fields
    path = tmp_path / "metadata.arrow"
    whole_file = path.read_bytes()
    for reader in (
        MetadataReader(tmp_path, 51, fields),
        MetadataReader(tmp_path, 50, {"a": "string"}),
        MetadataReader(tmp_path, 50, {"a": "int64", "b": "int64"}),
    ):
        with pytest.raises(IndexCorrupt, match=r"metadata\.arrow"):
            [reader.column(name) for name in reader.fields]
    path.write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(IndexCorrupt, match=r"metadata\.arrow"):
        MetadataReader(tmp_path, 50, fields).column("a")


# ---------------------------------------------------------------- searching

PASSAGES = 480  # fewer than are calibrated


def vectors(count: int = PASSAGES, dim: int = 32) -> list[F32]:
    rng = np.random.default_rng(3)
    topics = rng.standard_normal((12, dim))
    made = []
    for number in range(count):
        x = topics[number % 12] + rng.standard_normal((int(rng.integers(1, 14)), dim))
        made.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
    return made


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    metadata = [{"n": i, "topic": f"t{i % 12}", "half": i % 2 == 0} for i in range(PASSAGES)]
    path = tmp_path_factory.mktemp("filtered") / "ix"
    return Index.build(path, vectors(), metadata=metadata, shards=3, centroids=64)


EFFORTS = ({}, {"recall": 0.5}, {"nprobe": 1, "candidates": 1}, {"scored": 0}, {"exact": True})


@pytest.mark.parametrize("tokens", [0, selective.SCORED_TOKENS])
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    query=st.integers(0, PASSAGES - 1),
    k=st.integers(1, 700),
    low=st.integers(-1, PASSAGES),
    width=st.integers(0, PASSAGES),
    topics=st.sets(st.integers(0, 12), max_size=3),
    effort=st.sampled_from(EFFORTS),
)
def test_there_are_min_k_and_matching_hits(
    index: Index,
    monkeypatch: pytest.MonkeyPatch,
    tokens: int,
    query: int,
    k: int,
    low: int,
    width: int,
    topics: set[int],
    effort: dict[str, Any],
) -> None:
    """On every path: few are scored exactly, more compared, and with neither the probes widen."""
    monkeypatch.setattr(selective, "SCORED_TOKENS", tokens)
    monkeypatch.setattr(selective, "COMPARED_TOKENS", tokens)
    wanted = And((Range("n", low, low + width), In("topic", tuple(f"t{i}" for i in topics))))
    matching = {str(i) for i in range(PASSAGES) if low <= i <= low + width and i % 12 in topics}
    hits = index.search(vectors()[query], k=k, filter=wanted, **effort)
    assert len(set(hits.ids)) == len(hits) == min(k, len(matching))
    assert set(hits.ids) <= matching
    assert sorted(hits.scores, reverse=True) == list(hits.scores)


def test_few_are_scored_exactly(index: Index) -> None:
    for number in range(0, PASSAGES, 7):
        query = vectors()[number]
        wanted = f"topic = 't{(number + 5) % 12}' and half = {'true' if number % 2 else 'false'}"
        hits = index.search(query, filter=wanted, nprobe=1, candidates=1)
        exact = index.search(query, filter=wanted, exact=True)
        assert hits.ids == exact.ids
        assert hits.scores.tolist() == exact.scores.tolist()


def test_coarse_search_stays_coarse_under_a_filter(index: Index) -> None:
    """Its scores are the centroids', whatever a filter leaves: one scale over all shards."""
    query = vectors()[40]
    everything = {hit.id: hit.score for hit in index.search(query, k=PASSAGES, scored=0)}
    hits = index.search(query, k=20, scored=0, filter="n < 60")
    assert {hit.id: hit.score for hit in hits}.items() <= everything.items()


def test_search_many_takes_a_filter(index: Index) -> None:
    queries = vectors()[:4]
    many = index.search_many(queries, filter="half = true and n >= 100")
    one = [index.search(query, filter="half = true and n >= 100") for query in queries]
    assert [hits.ids for hits in many] == [hits.ids for hits in one]


def test_an_index_says_what_it_can_be_filtered_by(index: Index, tmp_path: Path) -> None:
    assert index.fields == {"half": "bool", "n": "int64", "topic": "string"}
    with pytest.raises(QueryError, match=r"half \(bool\), n \(int64\), topic \(string\)"):
        index.search(vectors()[0], filter="year > 3")
    without = Index.build(tmp_path / "ix", vectors(20))
    assert without.search(vectors()[0], filter="_id in ('3', '4', 'x')").ids in (
        ["3", "4"],
        ["4", "3"],
    )
    with pytest.raises(QueryError, match="no metadata"):
        without.search(vectors()[0], filter="year > 3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_metadata_that_are_no_json_are_refused(value: Any, tmp_path: Path) -> None:
    metadata = [{"n": 1}, {"n": value}]
    with pytest.raises(CorpusError, match="passage '1': its metadata cannot be kept as JSON"):
        Index.build(tmp_path / "ix", vectors(2), metadata=metadata)


def test_what_one_shard_lacks_is_missing_there(tmp_path: Path) -> None:
    metadata: list[dict[str, Any]] = [{"old": 1} if i < 10 else {"new": i + 0.5} for i in range(20)]
    index = Index.build(tmp_path / "ix", vectors(20), metadata=metadata, shards=2)
    query = vectors()[0]
    assert len(index.search(query, k=20, filter="old = 1")) == 10
    assert len(index.search(query, k=20, filter="not old = 1")) == 10
    assert len(index.search(query, k=20, filter="new > 15 or exists(old)")) == 15
    assert math.isclose(index.search(query, filter="new = 19.5")[0].metadata["new"], 19.5)


def test_a_device_answers_alike_under_filters(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Index.open(index.generation.path, device="torch:cpu")
    for tokens in (0, selective.SCORED_TOKENS):
        monkeypatch.setattr(selective, "SCORED_TOKENS", tokens)
        monkeypatch.setattr(selective, "COMPARED_TOKENS", tokens)
        for wanted in ("n < 3", "half = true", "topic in ('t1', 't7') and n >= 100", "n < 0"):
            for k in (1, 10, 300):
                query = vectors()[k]
                here, there = (one.search(query, k=k, filter=wanted) for one in (index, device))
                assert here.ids == there.ids
                np.testing.assert_allclose(here.scores, there.scores, atol=1e-4)


REFERENCE = """
import sys
from colbert_core import Index, kernels
from colbert_core.search import selective
assert kernels.isa() == "reference"
import numpy as np
index = Index.open(sys.argv[1])
query = np.load(sys.argv[2])
for tokens in (0, 1 << 16):
    selective.SCORED_TOKENS = selective.COMPARED_TOKENS = tokens
    for wanted, matching in (("n < 3", 3), ("topic = 't1' and n < 240", 20), ("n < 0", 0)):
        for k in (1, 10, 30):
            hits = index.search(query, k=k, filter=wanted, nprobe=1)
            assert len(set(hits.ids)) == len(hits) == min(k, matching), (tokens, wanted, k)
"""


def test_the_reference_gives_min_k_and_matching_too(index: Index, tmp_path: Path) -> None:
    np.save(tmp_path / "query.npy", vectors()[5][:3])
    command = [sys.executable, "-c", REFERENCE, str(index.generation.path)]
    command.append(str(tmp_path / "query.npy"))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "TARTAN_KERNELS": "reference"}
    run = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
