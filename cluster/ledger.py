"""The ledger of an index job: what was asked for, and what is committed. Pure: bytes to values.

A ledger is text, one record a line: sixteen hex digits of a SHA-256, then the record as JSON. Lines
are only ever appended, by the driver, after the file that a record speaks of was committed; so
whatever kills the job, the ledger names files that are whole, and its last line may be torn.

    asked       settings, software, corpus files         what must not change when a job goes on
    staged      the plan of the units, digests of the corpus
    started     the model's identity, the generation's id
    embedded    vectors of a sampled unit
    trained     the codec's files
    compressed  the chunk of a unit
    poisoned    passages that the model fails on
    shard       a shard and its files
    calibrated  presets

`cluster/ledger_file.py` reads, checks and writes one; `cluster/resuming.py` says what of it counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from colbert_core.index import Preset, ShardEntry
from colbert_core.index.manifest import FileEntry
from workers.encoder import UnitResult

_CHECK_DIGITS = 16


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of the corpus as it was when the job was planned; `mtime_ns` only saves a reading."""

    path: str
    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What a job was asked to do, and by which program. All of it decides the bytes."""

    settings: Mapping[str, Any]
    software: Mapping[str, Any]
    files: tuple[CorpusFile, ...]


@dataclass(frozen=True, slots=True)
class Staged:
    """The corpus lies in unit files: the file that lists them, and SHA-256 of the corpus files."""

    plan: FileEntry
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The model that encodes, on which kind of device, and the id of what will be published."""

    identity: Mapping[str, Any]
    device: str
    generation: str


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vectors of a sampled unit are kept."""

    result: UnitResult


@dataclass(frozen=True, slots=True)
class Trained:
    """The codec: its files by name, under `global/<generation>`."""

    files: Mapping[str, FileEntry]


@dataclass(frozen=True, slots=True)
class Compressed:
    """The chunk of a unit is committed."""

    result: UnitResult


@dataclass(frozen=True, slots=True)
class Poisoned:
    """Passages of a unit that the model fails on: their rows in it, their ids, and why."""

    unit: int
    rows: tuple[int, ...]
    ids: tuple[str, ...]
    cause: str


@dataclass(frozen=True, slots=True)
class ShardWritten:
    """A shard is committed: its files by name, under `shards/<entry.id>`."""

    number: int
    entry: ShardEntry
    files: Mapping[str, FileEntry]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The presets were measured."""

    presets: tuple[Preset, ...]


Record = (
    Asked
    | Staged
    | Started
    | Embedded
    | Trained
    | Compressed
    | Poisoned
    | ShardWritten
    | Calibrated
)


@dataclass(frozen=True)
class Done:
    """All that a ledger says, by what it speaks of. A later record replaces an earlier one."""

    asked: Asked | None = None
    staged: Staged | None = None
    started: Started | None = None
    trained: Trained | None = None
    calibrated: Calibrated | None = None
    embedded: Mapping[int, UnitResult] = field(default_factory=dict)
    compressed: Mapping[int, UnitResult] = field(default_factory=dict)
    poisoned: Mapping[int, Poisoned] = field(default_factory=dict)
    shards: Mapping[int, ShardWritten] = field(default_factory=dict)

    def records(self) -> list[Record]:
        """The shortest ledger that says the same."""
        once = (self.asked, self.staged, self.started)
        return [
            *(record for record in once if record is not None),
            *self.poisoned.values(),
            *(Embedded(result) for result in self.embedded.values()),
            *([self.trained] if self.trained else []),
            *(Compressed(result) for result in self.compressed.values()),
            *self.shards.values(),
            *([self.calibrated] if self.calibrated else []),
        ]

    @property
    def skipped_ids(self) -> tuple[str, ...]:
        """Ids of the passages that are left out, in the order of the corpus."""
        return tuple(i for unit in sorted(self.poisoned) for i in self.poisoned[unit].ids)


class Book:
    """Takes records as they come, in time that does not grow with them; `done` is all of them."""

    def __init__(self, done: Done) -> None:
        self._once: dict[str, Record] = {}
        self._units: dict[str, dict[int, Any]] = {
            name: dict(getattr(done, name))
            for name in ("embedded", "compressed", "poisoned", "shards")
        }
        for name in ("asked", "staged", "started", "trained", "calibrated"):
            if getattr(done, name) is not None:
                self._once[name] = getattr(done, name)

    def add(self, record: Record) -> None:
        """Take note of one."""
        match record:
            case Embedded(result):
                self._units["embedded"][result.unit] = result
            case Compressed(result):
                self._units["compressed"][result.unit] = result
            case Poisoned():
                self._units["poisoned"][record.unit] = record
            case ShardWritten():
                self._units["shards"][record.number] = record
            case _:
                self._once[_KIND_OF[type(record)]] = record

    @property
    def done(self) -> Done:
        """What was said so far; it goes on to show what is added to units and shards."""
        return Done(**self._once, **self._units)  # type: ignore[arg-type]


def line_of(record: Record) -> bytes:
    """A record as one line of a ledger."""
    raw = {"kind": _KIND_OF[type(record)], **asdict(record)}
    text = orjson.dumps(raw, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return _check(text) + b" " + text + b"\n"


def parse(data: bytes) -> Done:
    """Everything up to the first line that is torn or altered."""
    book = Book(Done())
    for line in data.split(b"\n")[:-1]:  # what follows the last line end was not finished
        check, _, text = line.partition(b" ")
        if check != _check(text):
            break
        try:
            raw = orjson.loads(text)
            book.add(_READERS[raw.pop("kind")](raw))
        except (ValueError, TypeError, KeyError):  # whole, but of a program that knows other kinds
            break
    return book.done


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECK_DIGITS].encode()


def _files(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, FileEntry]:
    return {name: FileEntry(**entry) for name, entry in raw.items()}


def _result(raw: Mapping[str, Any]) -> UnitResult:
    values = {**raw, "skipped": tuple(raw["skipped"]), "file": FileEntry(**raw["file"])}
    return UnitResult(**values)


_KIND_OF: dict[type[Record], str] = {
    Asked: "asked",
    Staged: "staged",
    Started: "started",
    Embedded: "embedded",
    Trained: "trained",
    Compressed: "compressed",
    Poisoned: "poisoned",
    ShardWritten: "shard",
    Calibrated: "calibrated",
}
_READERS: dict[str, Callable[[dict[str, Any]], Record]] = {
    "asked": lambda raw: Asked(
        raw["settings"], raw["software"], tuple(CorpusFile(**file) for file in raw["files"])
    ),
    "staged": lambda raw: Staged(FileEntry(**raw["plan"]), tuple(raw["digests"])),
    "started": lambda raw: Started(**raw),
    "embedded": lambda raw: Embedded(_result(raw["result"])),
    "trained": lambda raw: Trained(_files(raw["files"])),
    "compressed": lambda raw: Compressed(_result(raw["result"])),
    "poisoned": lambda raw: Poisoned(
        raw["unit"], tuple(raw["rows"]), tuple(raw["ids"]), raw["cause"]
    ),
    "shard": lambda raw: ShardWritten(
        raw["number"], ShardEntry(**raw["entry"]), _files(raw["files"])
    ),
    "calibrated": lambda raw: Calibrated(
        tuple(Preset.from_raw(preset) for preset in raw["presets"])
    ),
}


def generation_id(number: str, done: Done, identity: Mapping[str, Any], device: str) -> str:
    """The id of what a job will publish: a number that only grows, and what its bytes follow from.

    The same job has the same id wherever it runs and however often it is begun, so the files of
    two indexes can be compared; another corpus, model or setting has another.
    """
    assert done.asked is not None and done.staged is not None  # noqa: PT018
    parts = (done.asked.settings, done.asked.software, done.staged.digests, identity, device)
    text = orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)
    return f"{number}-{hashlib.sha256(text).hexdigest()[:8]}"
