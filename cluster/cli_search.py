"""`tartan search`: hits on a terminal, with what matched in them."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cluster.progress import fetching
from colbert_core.errors import InvalidInput
from colbert_core.storage import Location
from colbert_core.types import Hit

DEFAULT_TARGET = "127.0.0.1:50051"
SNIPPET_CHARS = 320
STRONG_MATCH = 0.45
"""Matched tokens are highlighted from this similarity on."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One query as the command line gives it."""

    query: str
    k: int
    recall: float | None
    nprobe: int | None
    candidates: int | None
    scored: int | None
    exact: bool
    explain: bool
    timeout_s: float
    filter: str | None = None
    language: str | None = None

    @property
    def knobs(self) -> dict[str, Any]:
        """How hard to look."""
        names = ("k", "recall", "nprobe", "candidates", "scored", "exact")
        return {name: getattr(self, name) for name in names}

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the query."""
        names = ("explain", "timeout_s", "filter", "language")
        rest = {name: getattr(self, name) for name in names}
        return {**self.knobs, **rest}


def search(
    ask: Ask, *, target: str | None, index: Location | None, device: str, as_json: bool
) -> None:
    """Search where the user says, and print the hits."""
    if target and index:
        raise InvalidInput("both --target and --index are given; choose one place to search")
    if device != "cpu" and not index:
        raise InvalidInput(
            f"--device {device} goes with --index; a gateway's is chosen by `tartan serve --device`"
        )
    began = time.perf_counter()
    # A person's eye needs the matched words highlighted, so the matches are always asked for then.
    asked = ask if as_json else dataclasses.replace(ask, explain=True)
    if index:
        hits, about = _search_index(asked, index, device)
    else:
        hits, about = _search_gateway(asked, target or DEFAULT_TARGET)
    about["elapsed_ms"] = round(1000 * (time.perf_counter() - began), 2)
    if as_json:
        print(json.dumps({"query": ask.query, "hits": [hit_dict(h) for h in hits], **about}))
        return
    print_hits(Console(), hits, explain=ask.explain)


def _search_index(ask: Ask, path: Location, device: str) -> tuple[Sequence[Hit], dict[str, Any]]:
    from colbert_core.api import Index

    with fetching() as on_fetch:
        index = Index.open(str(path), device, on_fetch, in_memory=False)  # for one query
    about = {
        "generation": index.manifest.generation,
        "params": dataclasses.asdict(index.params(**ask.knobs)),
    }
    return index.search(ask.query, **ask.options), about


def _search_gateway(ask: Ask, target: str) -> tuple[Sequence[Hit], dict[str, Any]]:
    from cluster.client import Client
    from cluster.security.client import access_from_environment

    with Client(target, **access_from_environment()) as client:
        answer = client.search(ask.query, timings=True, **ask.options)
    about = {
        "generation": answer.generation,
        "params": dataclasses.asdict(answer.params),
        "coverage": dataclasses.asdict(answer.coverage),
        "timings_ms": dict(answer.timings_ms),
    }
    return list(answer.hits), about


def hit_dict(hit: Hit) -> dict[str, Any]:
    """A hit as JSON; `matches` only where they were asked for."""
    row = {"id": hit.id, "score": hit.score, "text": hit.text, "metadata": dict(hit.metadata)}
    if hit.window:
        row["window"] = list(hit.window)
    if hit.matches:
        row["matches"] = [dataclasses.asdict(match) for match in hit.matches]
    return row


def print_hits(console: Console, hits: Sequence[Hit], *, explain: bool) -> None:
    """Hits as a person reads them: rank, score, id, and the part of the text that matched."""
    if not hits:
        console.print("nothing was found")
    for rank, hit in enumerate(hits, 1):
        head = Text(f"{rank:2d}  ")
        head.append(f"{hit.score:7.3f}  ", style="cyan")
        head.append(hit.id, style="bold")
        console.print(head)
        if hit.text:
            console.print(Padding(snippet(hit), (0, 0, 0, 13)))
        if explain:
            console.print(_matches_table(hit))


def snippet(hit: Hit) -> Text:
    """The part of a hit's text with the strongest matches, matched words highlighted."""
    text = hit.text or ""
    spans = [
        _whole_word(text, match.start, match.end)
        for match in hit.matches
        if match.start >= 0 and match.score >= STRONG_MATCH
    ]
    start = _best_window(spans) if spans else 0
    stop = min(len(text), start + SNIPPET_CHARS)
    shown = Text(text[start:stop].replace("\n", " "))
    for first, last in spans:
        if first < stop and last > start:
            shown.stylize("bold yellow", max(0, first - start), min(last, stop) - start)
    lead = "… " if start else ""
    return Text(lead) + shown + Text(" …" if stop < len(text) else "")


def _best_window(spans: list[tuple[int, int]]) -> int:
    """Where the window begins that holds the most matches; 0 where the text's start does."""
    begins = [0, *(max(0, first - 20) for first, _ in spans)]

    def held(begin: int) -> int:
        return sum(begin <= first and last <= begin + SNIPPET_CHARS for first, last in spans)

    return max(begins, key=lambda begin: (held(begin), -begin))


def _whole_word(text: str, start: int, end: int) -> tuple[int, int]:
    """A matched piece grown to the word that it belongs to."""
    while start > 0 and text[start - 1].isalnum():
        start -= 1
    while end < len(text) and text[end].isalnum():
        end += 1
    return start, end


def _matches_table(hit: Hit) -> Table:
    table = Table("query token", "matched", "score", "characters", box=None, pad_edge=True)
    text = hit.text or ""
    for match in hit.matches:
        inside = match.start >= 0
        table.add_row(
            match.query_token,
            text[match.start : match.end] if inside else "(marker)",
            f"{match.score:.3f}",
            f"{match.start}–{match.end}" if inside else "",
        )
    return table
