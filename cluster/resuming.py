"""Whether an unfinished job may go on with what is asked for now, and from where. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from cluster.ledger import Asked, CorpusFile, Done


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
