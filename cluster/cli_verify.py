"""`tartan index verify|repair`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from cluster.progress import fetching
from colbert_core.index import Repair, Report, check_index, fetched_afresh, repair
from colbert_core.storage import Location, RemotePath


def verify_command(index: Location, *, deep: bool, as_json: bool) -> int:
    """Check an index and print every problem; the exit code. One in a bucket is fetched afresh."""
    if isinstance(index, RemotePath):
        with fetching() as on_fetch, fetched_afresh(index, on_fetch) as local:
            report = check_index(local, deep=deep, on_file=_on_file(as_json))
    else:
        report = check_index(index, deep=deep, on_file=_on_file(as_json))
    if as_json:
        print(json.dumps(report.to_dict()))
    else:
        _show(index, report)
    return 1 if report.problems else 0


def repair_command(index: Path, *, set_current: bool, as_json: bool) -> int:
    """Repair an index and say what was done and what is left; the exit code."""
    done = repair(index, set_current=set_current, on_file=_on_file(as_json))
    if as_json:
        print(json.dumps(done.to_dict()))
    else:
        print("\n".join(_told(index, done)))
    return 0 if done.ok else 1


def _on_file(as_json: bool) -> Callable[[str], None] | None:
    if as_json or not sys.stderr.isatty():
        return None
    return lambda name: print(f"checking {name}", file=sys.stderr)


def _show(index: Location, report: Report) -> None:
    if not report.problems:
        how = "whole, decoded to the last vector" if report.deep else "whole"
        print(
            f"{index}: {how}. {report.files} files, {report.size_bytes:,} bytes, "
            f"{report.passages:,} passages, generation {report.generation}"
        )
        return
    for one in report.problems:
        how = "can be made again" if one.repairable else "cannot be made again"
        print(f"{one.file}: {one.what}\n    {one.means}; {how}")
    first, repairable = report.problems[0], sum(one.repairable for one in report.problems)
    print(
        f"tartan: {index / first.file}: {first.what}; {len(report.problems)} files are damaged, "
        f"{repairable} of them follow from others"
        + (f"; next: tartan index repair {index}" if isinstance(index, Path) else ""),
        file=sys.stderr,
    )


def _told(index: Path, done: Repair) -> list[str]:
    lines = [f"repaired {name}" for name in done.repaired]
    lines += [f"lost {one.file}: {one.why}" for one in done.lost]
    if done.ok:
        last = "whole" if done.repaired else "whole already; nothing was changed"
        return [*lines, f"{index}: {last}, generation {done.generation}"]
    if done.whole:
        others = ", ".join(done.whole)
        return [
            *lines,
            f"{index}: not whole. Whole generations: {others}. `tartan index repair --set-current "
            f"{index}` makes {done.whole[0]} the live one",
        ]
    return [
        *lines,
        f"{index}: not whole, and no other generation is. Restore the files above from a copy of "
        "this index (their SHA-256 stand in the manifest), or build it again",
    ]
