"""The language of filters: trees and strings, both ways, and what errors say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from colbert_core.errors import QueryError
from colbert_core.filters import (
    MAX_DEPTH,
    And,
    Eq,
    Exists,
    Filter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    as_filter,
    check_filter,
    merge_fields,
    parse_filter,
)

names = st.one_of(
    st.sampled_from(["year", "a.b", "Not", "true", "x-y", "`", "a b", "日付"]), st.text(min_size=1)
)
values = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


def ranges() -> st.SearchStrategy[Filter]:
    both = st.builds(Range, names, values, values, st.booleans(), st.booleans())
    low = st.builds(lambda f, v, o: Range(f, low=v, above=o), names, values, st.booleans())
    high = st.builds(lambda f, v, o: Range(f, high=v, below=o), names, values, st.booleans())
    return both | low | high


leaves = st.one_of(
    st.builds(Eq, names, values),
    st.builds(In, names, st.lists(values, max_size=4).map(tuple)),
    ranges(),
    st.builds(Exists, names),
    st.builds(Prefix, names, st.text()),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=12,
)


@given(filters)
@example(Not(In(" in (", ("x",))))
@example(Not(Not(Eq("a", "b"))))
def test_what_is_written_is_read_back(tree: Filter) -> None:
    again = parse_filter(str(tree))
    assert repr(again) == repr(tree)  # `==` would take 1, 1.0 and True for one value


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("year>=2019", Range("year", low=2019)),
        ("2010 <= year < 2020", Range("year", 2010, 2020, False, True)),
        ("2010 < year", Range("year", low=2010, above=True)),
        ("a == 'it\\'s'", Eq("a", "it's")),
        ('a = "\\ud83d\\ude00\\n"', Eq("a", "😀\n")),
        ("a = 1 or b = 2 and c = 3", Or((Eq("a", 1), And((Eq("b", 2), Eq("c", 3)))))),
        ("NOT a = 1 AND b = TRUE", And((Not(Eq("a", 1)), Eq("b", True)))),
        ("lang not in ('de', 'en')", Not(In("lang", ("de", "en")))),
        ("a != 1.5e3", Not(Eq("a", 1500.0))),
        ("`not` = 1", Eq("not", 1)),
        ("x in ()", In("x", ())),
        ("(((exists(a))))", Exists("a")),
    ],
)
def test_what_people_write(text: str, tree: Filter) -> None:
    assert repr(parse_filter(text)) == repr(tree)


@pytest.mark.parametrize(
    ("text", "at", "says"),
    [
        ("year >=", 8, "expected a string, a number, true or false, but the filter ends here"),
        ("year 2019", 6, "expected one of ="),
        ("year = foo", 8, 'a string goes in quotes: "foo"'),
        ('a = "x', 5, "is not closed"),
        ("and = 1", 1, "goes in backticks: `and`"),
        ("a = 1 b = 2", 7, "expected `and`, `or`, or the end"),
        ("(a = 1", 7, "expected `)`"),
        ("a in (1 2)", 9, "expected `,` or `)`"),
        ("a = 9223372036854775808", 5, "64 bits"),
        ("a = 1e999", 5, "too large"),
        ("a = 1.2.3", 5, "not a number"),
        ("a ~ 3", 3, "no part of a filter"),
        ("2 > a", 3, "as in `2010 <= year < 2020`"),
        ('a = "\\ud800"', 5, "half of a character"),
        ("x prefix 3", 10, "a string in quotes"),
    ],
)
def test_errors_show_the_place_and_say_what_was_expected(text: str, at: int, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        parse_filter(text)
    assert f"character {at}:" in str(caught.value)
    assert says in str(caught.value)


@given(st.text(alphabet=st.sampled_from("ab1.\"'`()<>=!,\\ notradein-+")))
def test_any_text_is_a_filter_or_a_query_error(text: str) -> None:
    try:
        tree = parse_filter(text)
    except QueryError:
        return
    assert repr(parse_filter(str(tree))) == repr(tree)


def test_trees_have_a_limit_of_levels() -> None:
    tree: Filter = Exists("a")
    for _ in range(MAX_DEPTH - 1):
        tree = Not(tree)
    assert repr(parse_filter(str(tree))) == repr(tree)
    with pytest.raises(QueryError, match=f"more than {MAX_DEPTH} levels"):
        Not(tree)
    for text in ("(" * 10_000, "not " * 10_000 + "exists(a)"):
        with pytest.raises(QueryError, match="levels"):
            parse_filter(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Eq("", 1),
        lambda: Eq("a", None),
        lambda: Eq("a", float("nan")),
        lambda: Eq("a", 2**63),
        lambda: In("a", ("x", None)),
        lambda: Range("a"),
        lambda: Range("a", low=1, below=True),
        lambda: Prefix("a", 3),
        lambda: And((Exists("a"),)),
        lambda: Eq("a", "\ud800"),
    ],
)
def test_impossible_nodes_are_refused(make: object) -> None:
    with pytest.raises(QueryError):
        make()  # type: ignore[operator]


def test_callers_give_a_string_a_tree_or_ids() -> None:
    assert as_filter("a = 1") == Eq("a", 1)
    assert as_filter(Eq("a", 1)) == Eq("a", 1)
    assert as_filter(["x", "y"]) == In("_id", ("x", "y"))
    assert as_filter([]) == In("_id", ())
    with pytest.raises(QueryError, match="ids are strings"):
        as_filter([1, 2])  # type: ignore[list-item]


FIELDS = {
    "year": "int64",
    "score": "float64",
    "lang": "string",
    "ok": "bool",
    "tags": "list<string>",
    "mix": "json",
}


@pytest.mark.parametrize(
    "text",
    ["year = 1.5", "score >= 3", "tags prefix 'a'", "exists(mix)", "ok = true", "_id in ('1')"],
)
def test_what_fits_the_fields_is_no_error(text: str) -> None:
    check_filter(parse_filter(text), FIELDS)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yaer = 1", "There are _id (string) and year (int64), score (float64)"),
        ("year = '2019'", 'compares year with "2019", and it is int64'),
        ("exists(year) and not (year = true)", "it is int64"),
        ("lang > 3", "in quotes"),
        ("ok >= true", "write = true"),
        ("ok = 1", "write = true"),
        ("year prefix '20'", "it is int64"),
        ("mix = 3", "kept as JSON alone"),
        ("_id = 3", "it is string"),
    ],
)
def test_what_does_not_fit_says_what_there_is(text: str, says: str) -> None:
    with pytest.raises(QueryError) as caught:
        check_filter(parse_filter(text), FIELDS)
    assert says in str(caught.value)


def test_fields_of_shards_are_merged() -> None:
    shards = [
        {"a": "int64", "b": "string", "c": "int64", "only": "bool"},
        {"a": "float64", "b": "list<string>", "c": "string"},
    ]
    merged = {"a": "float64", "b": "list<string>", "c": "json", "only": "bool"}
    assert merge_fields(shards) == merged
    # A shard without room for all its fields cannot say who has `only`.
    crowded = [shards[0], {**shards[1], "*": "json"}]
    assert merge_fields(crowded) == {
        "*": "json",
        **{k: v for k, v in merged.items() if k != "only"},
    }
