"""What the driver queues of each unit: little, however many passages it has."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster.job import Job
from cluster.ledger import Compressed, Done, Poisoned
from cluster.progress import SilentProgress
from colbert_core.index.manifest import FileEntry
from workers.encoder import UnitResult
from workers.units import Unit


class Pool:
    """Does everything at once and keeps what it was given."""

    def run(self, works: Any, done: Any, _poisoned: Any) -> None:
        self.works = list(works)
        for work in self.works:
            skipped = tuple(work.args[1])
            file = FileEntry(1, "")
            done(work, UnitResult(work.unit.index, len(work.rows), 5, 0, skipped, file))


def test_rows_are_listed_only_where_some_are_left_out() -> None:
    poisoned = {1: Poisoned(1, (0, 2), ("a", "c"), "why")}
    ledger = SimpleNamespace(done=Done(poisoned=poisoned), add=lambda _record: None)
    job = Job(None, SimpleNamespace(ledger=ledger), SilentProgress())  # type: ignore[arg-type]
    units = [Unit(index, 4 * index, 4, 9, "x", "y") for index in range(3)]
    pool = Pool()
    results = job.over_units("encode", "compress", units, (), pool, {}, Compressed)  # type: ignore[arg-type]
    assert [type(work.rows) for work in pool.works] == [range, tuple, range]
    assert [tuple(work.rows) for work in pool.works] == [(0, 1, 2, 3), (1, 3), (0, 1, 2, 3)]
    assert [result.passages for result in results] == [4, 2, 4]
