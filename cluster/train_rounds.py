"""The query sets of `tartan train adapt`: one round for teachers and student, one for the student.

The second shows each template what the filter kept of the first as examples. Its queries train no
teacher: teachers score them, as they will score whatever the student is to learn from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cluster.progress import Progress
from cluster.train_generating import GenerateSettings, QuerySet, generate
from colbert_core.errors import InvalidInput
from colbert_core.text.corpus import Corpus, read_corpus
from colbert_core.train.templates import Example, Template
from colbert_core.train.writers import Writer

FIRST, SECOND = "generated", "more"
MORE = "-more"
SHOWN = 4
"""Examples of the second round, from the first."""


def check_more(more: int, templates: Sequence[Template]) -> None:
    """Refuse a second round that cannot be had.

    Raises:
        InvalidInput: its size is none, or a template has the name of one of its sets.
    """
    if more < 0:
        raise InvalidInput(f"more {more}: 0 or more is needed")
    names = {template.name for template in templates}
    if more and (taken := sorted(name for name in names if f"{name}{MORE}" in names)):
        raise InvalidInput(
            f"template {taken[0] + MORE!r}: the second round of {taken[0]!r} takes this name; give "
            "the file another"
        )


def set_folders(out: Path, names: Sequence[str], more: int) -> dict[str, Path]:
    """Where the query sets lie, by name, in the order in which they are written."""
    folders = {name: out / FIRST / name for name in names}
    second = {f"{name}{MORE}": out / SECOND / f"{name}{MORE}" for name in names}
    return folders | second if more else folders


def query_sets(
    corpus: Corpus,
    out: Path,
    *,
    writer: Writer,
    templates: Sequence[Template],
    settings: GenerateSettings,
    more: int,
    progress: Progress,
) -> list[QuerySet]:
    """Write the query sets of both rounds, or go on with them.

    Args:
        settings: of the first round.
        more: passages of the second; 0: none.

    Raises:
        Errors: as `generate`.
    """
    write = partial(generate, corpus, writer=writer, progress=progress)
    first = write(out / FIRST, templates=templates, settings=settings)
    if not more:
        return first
    shown = [
        dataclasses.replace(
            template, name=f"{template.name}{MORE}", examples=_examples_of(one, corpus)
        )
        for template, one in zip(templates, first, strict=True)
    ]
    # Another seed: other passages.
    again = dataclasses.replace(settings, passages=more, seed=settings.seed + 1)
    return [*first, *write(out / SECOND, templates=shown, settings=again)]


def _examples_of(one: QuerySet, corpus: Corpus) -> tuple[Example, ...]:
    """The first queries that the filter has kept, with their passages."""
    pairs = [line.split("\t")[:2] for line in one.qrels.read_text("utf-8").splitlines()[1:]]
    passage_of = dict(pairs[:SHOWN])
    queries = {d.passage.id: d.passage.text for d in read_corpus(one.queries)}
    wanted = set(passage_of.values())
    texts = {d.passage.id: d.passage.text for d in read_corpus(corpus) if d.passage.id in wanted}
    return tuple(Example(texts[passage], queries[query]) for query, passage in passage_of.items())
