"""Prompts, examples, and the query in an answer."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from colbert_core.errors import InvalidInput
from colbert_core.train.templates import (
    PASSAGE_CHARS,
    QUERY_CHARS,
    TEMPLATES,
    Example,
    Template,
    find_template,
    find_templates,
    query_of,
    read_examples,
)


def test_what_stands_behind_examples_is_repeated_for_each():
    few = (Example("one {passage}", "what is one?"), Example("two {examples}", "and two?"))
    template = Template("t", "Ask.\n\n{examples}P: {passage}\nQ:", few)
    assert template.prompt("a {b} {passage}") == (
        "Ask.\n\nP: one {passage}\nQ: what is one?\n\nP: two {examples}\nQ: and two?\n\n"
        "P: a {b} {passage}\nQ:"
    )
    assert replace(template, examples=()).prompt("a") == "Ask.\n\nP: a\nQ:"
    assert Template("t", "P: {passage}", few).prompt("a") == "P: a"


@settings(max_examples=30)
@given(st.text(min_size=PASSAGE_CHARS - 200, max_size=PASSAGE_CHARS + 200))
def test_a_passage_is_one_paragraph_and_is_cut(passage):
    shown = Template("t", "<{passage}>").prompt(passage)[1:-1]
    assert len(shown) <= PASSAGE_CHARS
    assert "\n" not in shown
    assert " ".join(passage.split()).startswith(shown)


def test_ours_are_whole_and_differ(tmp_path):
    prompts = {find_template(name).prompt("some passage") for name in TEMPLATES}
    assert len(prompts) == len(TEMPLATES) == 5
    (tmp_path / "mine.txt").write_text("Passage: {passage}\nQ:\n")
    mine = find_template(str(tmp_path / "mine.txt"))
    assert (mine.name, mine.prompt("x")) == ("mine", "Passage: x\nQ:")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Write a question.", "it has no {passage}"),
        ("{passage} {examples} Question:", "it has no {passage} behind {examples}"),
        ("{passage} {passage}", "{passage} stands in it more than once"),
        (None, "there is no such file; give one, or one of question, keywords"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path, text, says):
    path = tmp_path / "t.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput) as error:
        find_template(str(path))
    assert says in str(error.value)


def test_examples_need_a_place(tmp_path):
    few = [Example("a", "b?")]
    (bare := tmp_path / "bare.txt").write_text("{passage}?")
    assert [one.examples for one in find_templates(["claim", str(bare)], few)] == [(*few,)] * 2
    with pytest.raises(InvalidInput, match="no template has a place for"):
        find_templates([str(bare)], few)
    with pytest.raises(InvalidInput, match="no template: give"):
        find_templates([], [])


def test_examples(tmp_path):
    path = tmp_path / "few.jsonl"
    path.write_text('{"query": " a? ", "passage": "b"}\n\n')
    assert read_examples(path) == [Example("b", "a?")]
    for text, says in (
        ("", "there is none in it"),
        ('{"query": "a"}', r"few.jsonl:1: write"),
        ('{"query": "a", "passage": " "}', "both with words"),
        ("{", r"few.jsonl:1: write"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidInput, match=says):
            read_examples(path)
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_examples(tmp_path / "missing")


@pytest.mark.parametrize(
    ("answer", "query"),
    [
        (" how do birds fly?\nPassage: next", "how do birds fly?"),
        ('\n\nQuestion: "How do   birds fly?"', "How do birds fly?"),
        ("1. who was it", "who was it"),
        ("„Wer war es?“", "Wer war es?"),
        ("", None),
        (" \n ", None),
        ("?!", None),
        ("x" * (QUERY_CHARS[1] + 1), None),
    ],
)
def test_the_query_in_an_answer(answer, query):
    assert query_of(answer) == query


@given(st.text())
def test_whatever_is_answered_gives_a_query_of_one_line_or_none(answer):
    query = query_of(answer)
    assert query is None or (
        QUERY_CHARS[0] <= len(query) <= QUERY_CHARS[1] and query == " ".join(query.split())
    )
