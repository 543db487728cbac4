"""Queries for a corpus that has none: a language model writes one for each passage of a sample.

    sample ─ for each template: prompts ─ language model, in units ─ filter by retrieval ─ query set

Under one folder:

    OUT/settings.json             what was asked for; the same command goes on, another is refused
    OUT/answers/NAME-000007.json  what the language model wrote; each file is written once
    OUT/NAME/queries.jsonl        a template's query set: ids and texts
    OUT/NAME/qrels.tsv            for each the passage that it was written for: what `mine` takes
    OUT/NAME/settings.json        how it was filtered: written last

A query is kept where its passage is among the best `top` that one of the rankings finds for it. A
filter that leaves none may be given anew: the answers are kept.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.progress import Progress
from cluster.train_ranking import Rank, rankings, stored_texts
from cluster.train_record import is_recorded, record, take_folder, write_whole
from colbert_core.errors import InvalidInput, TrainingDataError
from colbert_core.index.lock import write_lock
from colbert_core.text.corpus import Corpus
from colbert_core.train.templates import Template, query_of
from colbert_core.train.text_store import TextStore
from colbert_core.train.writers import UNIT, Writer

ANSWERS = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """What decides about the queries, beside corpus, writer and templates.

    Attributes:
        passages: how many get a query from each template; 0: all.
        top: a query's passage must be among so many; 0 keeps every query.
        index: of the same corpus, whose search is asked, or None.
        bm25: whether BM25 is asked.
        language: of its stemmer, or None.
        seed: of the sample and of the answers.
    """

    passages: int = 1000
    top: int = 20
    index: str | None = None
    bm25: bool = True
    language: str | None = "english"
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot be done.

        Raises:
            InvalidInput: a value is out of range, or nothing could filter.
        """
        for name, value in (("passages", self.passages), ("top", self.top), ("seed", self.seed)):
            if value < 0:
                raise InvalidInput(f"{name} {value}: 0 or more is needed")
        if self.top and self.index is None and not self.bm25:
            raise InvalidInput("no filter: give --index INDEX, --bm25, or --top 0 to keep all")


@dataclass(frozen=True, slots=True)
class QuerySet:
    """The queries of one template.

    Attributes:
        name: of the template.
        queries, qrels: files, as `mine` takes them.
        written: answers of the language model.
        kept: queries that are left of them.
    """

    name: str
    queries: Path
    qrels: Path
    written: int
    kept: int


def generate(
    corpus: Corpus,
    out: Path,
    *,
    writer: Writer,
    templates: Sequence[Template],
    settings: GenerateSettings,
    progress: Progress,
) -> list[QuerySet]:
    """Write a query set for each template, or go on with it.

    Raises:
        InvalidInput, CorpusError: settings, templates or corpus cannot be used; nothing was
            written.
        IndexExists: the folder holds something else, or the same job is running.
        TrainingDataError: the filter leaves no query of a template.
        NotAuthenticated, Overloaded, Unavailable, ModelError: the language model does not answer;
            what is done is kept.
    """
    settings.check()
    _check_templates(templates)
    with tempfile.TemporaryDirectory(prefix="tartan-generate-") as folder:
        passages = stored_texts(Path(folder) / "passages", corpus)
        rows = sample(passages, settings)
        asked = _asked(passages, rows, writer, templates, settings)
        is_recorded(out, asked)
        todo = [one for one in templates if not is_recorded(out / one.name, _filtered_by(settings))]
        if todo:  # what may be refused, before the work
            ranks = _ranks(passages, settings)
            texts = [passages.text(row) for row in rows]
            writer.check(max((one.prompt(t) for one in todo for t in texts), key=len))
        take_folder(out, asked)
        with write_lock(out):
            if todo:
                _write_answers(out, passages, rows, writer, todo, settings.seed, progress)
            for template in todo:
                _filter(out, passages, rows, template, ranks, settings, progress)
            return [_read_set(out, template.name, len(rows)) for template in templates]


def sample(passages: TextStore, settings: GenerateSettings) -> list[int]:
    """Rows of passages with words in them, ascending; the same ones for a seed.

    Raises:
        TrainingDataError: there is none.
    """
    rows = [row for row in range(len(passages)) if passages.text(row).strip()]
    if not rows:
        raise TrainingDataError("the corpus has no passage with words in it; give another --corpus")
    if not settings.passages or settings.passages >= len(rows):
        return rows
    drawn = np.random.default_rng(settings.seed).choice(len(rows), settings.passages, replace=False)
    return [rows[at] for at in sorted(drawn.tolist())]


def _check_templates(templates: Sequence[Template]) -> None:
    names = [template.name for template in templates]
    for name in names:
        if names.count(name) > 1 or name == ANSWERS or name.startswith("."):
            raise InvalidInput(
                f"template {name!r}: its name is taken twice, or cannot name a folder here; give "
                "the file another name"
            )


def _asked(
    passages: TextStore,
    rows: Sequence[int],
    writer: Writer,
    templates: Sequence[Template],
    settings: GenerateSettings,
) -> dict[str, object]:
    digest = hashlib.sha256()
    for row in range(len(passages)):
        digest.update(json.dumps([passages.id(row), passages.text(row)]).encode())
    return {
        "corpus": f"{len(passages):,} passages, sha256 {digest.hexdigest()[:16]}",
        "passages": len(rows),
        **writer.identity,
        "templates": {template.name: template.text for template in templates},
        "examples": {
            template.name: [[one.passage, one.query] for one in template.examples]
            for template in templates
        },
        "seed": settings.seed,
        "unit": UNIT,
    }


def _filtered_by(settings: GenerateSettings) -> dict[str, object]:
    names = ("top", "index", "bm25", "language") if settings.top else ("top",)
    return {name: getattr(settings, name) for name in names}


def _write_answers(
    out: Path,
    passages: TextStore,
    rows: Sequence[int],
    writer: Writer,
    templates: Sequence[Template],
    seed: int,
    progress: Progress,
) -> None:
    """Let the language model answer what it has not answered yet."""
    (out / ANSWERS).mkdir(exist_ok=True)
    units = [(template, at, unit) for template in templates for at, unit in _units(rows)]
    waiting = [one for one in units if not _answers_path(out, *one[:2]).is_file()]
    progress.start("generate", sum(len(unit) for *_, unit in waiting), "queries")
    for template, at, unit in waiting:
        prompts = [template.prompt(passages.text(row)) for row in unit]
        answers = writer.write(prompts, _seed(seed, template.name, at))
        write_whole(_answers_path(out, template, at), json.dumps(answers))
        progress.advance(len(unit))
    progress.finish()


def _units(rows: Sequence[int]) -> Iterator[tuple[int, Sequence[int]]]:
    for at, start in enumerate(range(0, len(rows), UNIT)):
        yield at, rows[start : start + UNIT]


def _answers_path(out: Path, template: Template, at: int) -> Path:
    return out / ANSWERS / f"{template.name}-{at:06d}.json"


def _seed(seed: int, name: str, at: int) -> int:
    digest = hashlib.blake2b(f"{seed} {name} {at}".encode(), digest_size=4).digest()
    return int.from_bytes(digest)


def _ranks(passages: TextStore, settings: GenerateSettings) -> list[Rank]:
    if not settings.top:
        return []
    return rankings(passages, index=settings.index, bm25=settings.bm25, language=settings.language)


def _filter(
    out: Path,
    passages: TextStore,
    rows: Sequence[int],
    template: Template,
    ranks: Sequence[Rank],
    settings: GenerateSettings,
    progress: Progress,
) -> None:
    """Write the queries of a template whose passage is found by them."""
    written = _distinct(out, rows, template)
    progress.start(f"filter {template.name}", len(written), "queries")
    kept: list[tuple[str, str]] = []
    items = list(written.items())
    for start in range(0, len(items), UNIT):
        some = items[start : start + UNIT]
        pairs = [(query, passages.id(row)) for query, row in some]
        kept += consistent(pairs, ranks, settings.top)
        progress.advance(len(some))
    progress.finish()
    if not kept:
        raise TrainingDataError(
            f"template {template.name}: of {len(rows):,} answers of the language model, "
            f"{len(written):,} are queries, and none finds its passage among the best "
            f"{settings.top}: give a larger --top, or another model or template and --out"
        )
    folder = out / template.name
    folder.mkdir(exist_ok=True)
    lines = [
        json.dumps({"_id": f"{template.name}-{passage}", "text": query}, ensure_ascii=False)
        for query, passage in kept
    ]
    write_whole(folder / "queries.jsonl", "\n".join(lines) + "\n")
    judged = [f"{template.name}-{passage}\t{passage}\t1\n" for _, passage in kept]
    write_whole(folder / "qrels.tsv", "query-id\tcorpus-id\tscore\n" + "".join(judged))
    record(folder, _filtered_by(settings))


def _distinct(out: Path, rows: Sequence[int], template: Template) -> dict[str, int]:
    """Each query that was written, and the row of the first passage that it was written for."""
    found: dict[str, int] = {}
    for at, unit in _units(rows):
        answers = json.loads(_answers_path(out, template, at).read_text(encoding="utf-8"))
        for row, answer in zip(unit, answers, strict=True):
            query = query_of(answer)
            if query is not None:
                found.setdefault(query, row)
    return found


def consistent(
    pairs: Sequence[tuple[str, str]], ranks: Sequence[Rank], top: int
) -> list[tuple[str, str]]:
    """The (query, passage id) whose passage is among the best `top` of a ranking; all of them
    where nothing ranks."""
    if not ranks:
        return list(pairs)
    queries = [query for query, _ in pairs]
    found = [rank(queries, top) for rank in ranks]
    return [
        pair for at, pair in enumerate(pairs) if any(pair[1] in ranking[at] for ranking in found)
    ]


def _read_set(out: Path, name: str, written: int) -> QuerySet:
    queries = out / name / "queries.jsonl"
    kept = sum(1 for _ in queries.open(encoding="utf-8"))
    return QuerySet(name, queries, out / name / "qrels.tsv", written, kept)
