"""A text as the tokenizer is given it, and where in the text as the caller knows it tokens stand.

A span is the characters [start, end) of a text.
"""

from __future__ import annotations

from collections.abc import Iterable

from colbert_core.text.checkpoint import TextRules

NO_SPAN = (-1, -1)


def prepare(text: str, prompt: str, rules: TextRules) -> str:
    """What the tokenizer reads of a text."""
    text = prompt + text
    if rules.strip:
        text = text.strip()
    return text.lower() if rules.lowercase else text


def source_spans(
    offsets: Iterable[tuple[int, int]], text: str, prompt: str, rules: TextRules
) -> list[tuple[int, int]]:
    """Offsets into the prepared text as spans of the text, `NO_SPAN` for what is not of it."""
    origin = _origin(text, prompt, rules)
    return [_source_span(offset, origin, text) for offset in offsets]


def whole_words(places: list[tuple[int, int]], text: str, most: int) -> tuple[int, int]:
    """The characters from the first token to the last, less up to `most` tokens of a word that is
    cut at either end: the window beside this one has it whole."""

    def inside(at: int) -> bool:
        return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()

    starts = [start for start, _ in places[: most + 1] if not inside(start)]
    ends = [end for _, end in places[-most - 1 :] if not inside(end)]
    return (starts or [places[0][0]])[0], (ends or [places[-1][1]])[-1]


def _origin(text: str, prompt: str, rules: TextRules) -> list[int]:
    """For each character of the prepared text its index in `text`; -1 within the prompt."""
    whole = prompt + text
    start, end = 0, len(whole)
    if rules.strip:
        start = len(whole) - len(whole.lstrip())
        end = max(start, len(whole.rstrip()))
    places = range(start, end)
    if rules.lowercase:  # one character may become two: 'İ'
        return [max(at - len(prompt), -1) for at in places for _ in whole[at].lower()]
    return [max(at - len(prompt), -1) for at in places]


def _source_span(offset: tuple[int, int], origin: list[int], text: str) -> tuple[int, int]:
    start, end = offset
    places = [place for place in origin[start:end] if place >= 0]
    # Byte-level and SentencePiece tokens may begin with the space before the word.
    while places and text[places[0]].isspace():
        places.pop(0)
    return (places[0], places[-1] + 1) if places else NO_SPAN
