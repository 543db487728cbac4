"""Prompts by which a language model writes a query for a passage, and what its answer says.

    (template,) = find_templates(["question"], examples)    # of TEMPLATES, or a file
    prompt = template.prompt(passage)
    query = query_of(answer)                                # None where it is none

A template is text with `{passage}`. What stands behind `{examples}`, if that is there, is repeated
for each example, followed by its query; so a template says once how passage and query are written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from colbert_core.errors import InvalidInput

PASSAGE, EXAMPLES = "{passage}", "{examples}"
PASSAGE_CHARS = 1500
QUERY_CHARS = (3, 300)

TEMPLATES = {
    "question": "Write the question that a person had before reading each passage, and that it "
    "answers.\n\n{examples}Passage: {passage}\nQuestion:",
    "keywords": "Write the few words that a person would type into a search box to find each "
    "passage.\n\n{examples}Passage: {passage}\nSearch:",
    "problem": "Somebody has a problem, and each passage helps. Write in one sentence what they "
    "would ask.\n\n{examples}Passage: {passage}\nThey ask:",
    "detail": "Write a specific question about one detail of each passage. It must make sense to "
    "somebody who has not seen the passage.\n\n{examples}Passage: {passage}\nQuestion:",
    "claim": "Write one sentence that claims something which each passage can confirm or refute."
    "\n\n{examples}Passage: {passage}\nClaim:",
}
"""Five ways to ask, as many as the paper on UDAPDR has; the words are ours."""

_LABEL = re.compile(
    r"^(?:[-*•\d.)\s]*)(?:(?:question|query|search|they ask|claim)\s*:\s*)?", re.IGNORECASE
)
_QUOTES = "\"'“”„«»` "


@dataclass(frozen=True, slots=True)
class Example:
    """A passage, and a query that it answers."""

    passage: str
    query: str


@dataclass(frozen=True, slots=True)
class Template:
    """A checked template.

    Attributes:
        name: short; names the query set that it makes.
        text: as it was written.
        examples: shown before the passage, where the text has a place for them.
    """

    name: str
    text: str
    examples: tuple[Example, ...] = ()

    @property
    def takes_examples(self) -> bool:
        """Whether there is a place for examples."""
        return EXAMPLES in self.text

    def prompt(self, passage: str) -> str:
        """What a language model is given for a passage, which is cut to `PASSAGE_CHARS`."""
        head, _, pattern = self.text.rpartition(EXAMPLES)
        before, _, after = pattern.partition(PASSAGE)
        shown = [
            f"{before}{_cut(one.passage)}{after} {one.query}\n\n"
            for one in (self.examples if self.takes_examples else ())
        ]
        return f"{head}{''.join(shown)}{before}{_cut(passage)}{after}"


def find_templates(names: Sequence[str], examples: Sequence[Example]) -> list[Template]:
    """Templates by name or file, each with the examples.

    Raises:
        InvalidInput: there is none, one cannot be used, or none has a place for the examples.
    """
    found = [replace(find_template(name), examples=tuple(examples)) for name in names]
    if not found:
        raise InvalidInput("no template: give --template NAME or FILE, once for each")
    if examples and not any(template.takes_examples for template in found):
        raise InvalidInput(f"--examples are given, and no template has a place for {EXAMPLES}")
    return found


def find_template(name: str) -> Template:
    """A template of ours by its name, or one from a file, which gives its name.

    Raises:
        InvalidInput: there is none, or `{passage}` does not stand in it once, behind `{examples}`.
    """
    if name in TEMPLATES:
        return Template(name, TEMPLATES[name])
    path = Path(name)
    if not path.is_file():
        raise InvalidInput(
            f"template {name!r}: there is no such file; give one, or one of {', '.join(TEMPLATES)}"
        )
    try:
        text = path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"template {path}: it cannot be read as text ({error})") from error
    for place, most in ((PASSAGE, 1), (EXAMPLES, 1)):
        if text.count(place) > most:
            raise InvalidInput(f"template {path}: {place} stands in it more than once")
    if PASSAGE not in text.rpartition(EXAMPLES)[2]:
        behind = f" behind {EXAMPLES}" if EXAMPLES in text else ""
        raise InvalidInput(
            f"template {path}: it has no {PASSAGE}{behind}; write that where the passage belongs"
        )
    return Template(path.stem, text)


def read_examples(path: Path) -> list[Example]:
    """Examples from JSON lines of `query` and `passage`.

    Raises:
        InvalidInput: the file cannot be read, a line is no example, or there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"examples {path}: it cannot be read ({error})") from error
    found = [_example(line, f"{path}:{at}") for at, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InvalidInput(f"examples {path}: there is none in it; leave --examples out")
    return found


def query_of(answer: str) -> str | None:
    """The query in what a language model wrote: its first line, without label and quotes; None
    where that is empty, or too short or long for a query."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if not lines:
        return None
    query = " ".join(_LABEL.sub("", lines[0], count=1).strip(_QUOTES).split())
    shortest, longest = QUERY_CHARS
    return query if shortest <= len(query) <= longest else None


def _example(line: str, place: str) -> Example:
    try:
        row = json.loads(line)
        passage, query = row["passage"], row["query"]
    except (ValueError, KeyError, TypeError):
        passage = query = None
    if not all(isinstance(text, str) and text.strip() for text in (passage, query)):
        raise InvalidInput(
            f'examples {place}: write {{"query": "…", "passage": "…"}}, both with words in them'
        )
    return Example(str(passage), str(query).strip())


def _cut(passage: str) -> str:
    """One paragraph, of at most `PASSAGE_CHARS` characters, ended at a word."""
    words = " ".join(passage.split())
    if len(words) <= PASSAGE_CHARS:
        return words
    return words[:PASSAGE_CHARS].rpartition(" ")[0] or words[:PASSAGE_CHARS]
