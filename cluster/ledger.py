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

`cluster/ledger_file.py` reads, checks and writes one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
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
    "calibrated": lambda raw: Calibrated(tuple(Preset(**preset) for preset in raw["presets"])),
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


def differences(
    before: Asked, now: Asked, same_content: Callable[[int, CorpusFile], bool]
) -> list[str]:
    """What differs between an unfinished job and what is asked for now, for people to read.

    Args:
        same_content: whether the file at a position of the corpus, which has its old size but not
            its old time, still has its old content.
    """
    found = [*_of(before.settings, now.settings, "--"), *_of(before.software, now.software, "")]
    if len(before.files) != len(now.files):
        found.append(f"the corpus had {len(before.files)} files, now {len(now.files)}")
        return found
    for number, (old, new) in enumerate(zip(before.files, now.files, strict=True)):
        if old.size_bytes != new.size_bytes:
            found.append(f"{new.path} had {old.size_bytes:,} bytes, now {new.size_bytes:,}")
        elif old != new and not same_content(number, new):
            moved = "" if old.path == new.path else f" (then {old.path})"
            found.append(f"{new.path}{moved} has another content")
    return found


def _of(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"{prefix}{name.replace('_', '-') if prefix else name} was {_shown(before.get(name))}, "
        f"now {_shown(now.get(name))}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)


def without_damaged(done: Done, damaged: Iterable[tuple[str, int]]) -> Done:
    """What still counts where some committed files are missing, torn or altered.

    Only what is damaged is done again: the same bytes come out. But for the codec, for everything
    after it was made with it.

    Args:
        damaged: (kind, number) of what was found so: "trained" with 0, "embedded", "compressed"
            and "shard" with the unit's or the shard's number. ("staged" changes nothing: the
            record still says which corpus it was, and what it is cut into again is the same.)
    """
    bad = set(damaged)
    if ("trained", 0) in bad:
        done = replace(done, trained=None, compressed={}, shards={}, calibrated=None)
    return replace(
        done,
        embedded=_kept(done.embedded, "embedded", bad),
        compressed=_kept(done.compressed, "compressed", bad),
        shards=_kept(done.shards, "shard", bad),
    )


def _kept(items: Mapping[int, Any], kind: str, bad: set[tuple[str, int]]) -> dict[int, Any]:
    return {number: item for number, item in items.items() if (kind, number) not in bad}
