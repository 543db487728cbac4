"""Checks of an index: that it is whole, and that its model encodes text here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.doctor.findings import Finding, fail, ok, warn
from cluster.doctor.machine import memory
from cluster.gateway_encoder import QueryEncoder, encoder_of
from colbert_core.errors import TartanError
from colbert_core.index import Report, check_index, open_generation
from colbert_core.storage import Location


def index_checks(index: Location, available_bytes: int | None) -> Iterator[Finding]:
    """Open it, check every byte where it lies on a disk, and encode one text with its model."""
    if isinstance(index, Path):
        try:
            report = check_index(index)
        except TartanError as error:
            yield fail("index", str(error), "give the folder that `tartan index build` made")
            return
        yield whole(report)
        if available_bytes is not None:
            yield memory(available_bytes, report.size_bytes)
    try:
        generation = open_generation(index, shards=())
    except TartanError as error:
        yield fail("index", str(error), f"tartan index verify {index}")
        return
    if not isinstance(index, Path):
        yield warn(
            "index",
            f"generation {generation.manifest.generation} can be read; files were not compared",
            f"`tartan index verify {index}` fetches and checks them all",
        )
    yield encodes(generation.model is not None, lambda: encoder_of(generation).get())


def whole(report: Report) -> Finding:
    """What `tartan index verify` found."""
    if report.problems:
        first = report.problems[0]
        return fail(
            "index",
            f"{len(report.problems)} files are damaged; {first.file}: {first.what}",
            "`tartan index verify` names all; `tartan index repair` makes again what it can",
        )
    return ok("index", f"generation {report.generation}, {report.files} files, all whole")


def encodes(has_model: bool, load: Callable[[], QueryEncoder]) -> Finding:
    """Whether the index's model loads and encodes."""
    if not has_model:
        return ok("model", "none: the index was built from vectors")
    began = time.monotonic()
    try:
        rows = len(load().encode_queries(["doctor"])[0])
    except TartanError as error:
        return fail("model", str(error), "put the model where the index says, or build it anew")
    return ok(
        "model", f"encodes a query to {rows} vectors; {time.monotonic() - began:.1f} s to load"
    )
