"""What control groups leave to this process: the limits of its container, or of its service.

Both versions of them, as Linux tells them in files: a limit counts for a group and for all below
it. In version 1 each resource has groups of its own. Seen from within a container, the name of a
process's group may lead to nowhere; what limits it is then at the root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

ROOT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_ABSENT = (OSError, KeyError, ValueError)  # no such file, or no number in it: no limit


def memory_left(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[int]:
    """Bytes that each limit leaves beside what is used, of which file pages can be taken back."""
    left = []
    for version, group in _groups("memory", root, membership):
        limit, usage, pages = {
            1: ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
            2: ("max", "current", "inactive_file"),
        }[version]
        with suppress(*_ABSENT):
            most, used = ((group / f"memory.{name}").read_text() for name in (limit, usage))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left.append(max(0, int(most) - int(used) + int(stat[pages])))
    return left


def processor_quotas(root: Path = ROOT, membership: Path = MEMBERSHIP) -> list[float]:
    """Processors' worth of time that each limit allows."""
    quotas = []
    for version, group in _groups("cpu", root, membership):
        with suppress(*_ABSENT):
            if version == 1:
                words = [(group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
            else:
                words = (group / "cpu.max").read_text().split()
            quota, period = map(int, words)
            if quota > 0 and period > 0:  # version 1 says -1 where there is none
                quotas.append(quota / period)
    return quotas


def _groups(resource: str, root: Path, membership: Path) -> Iterator[tuple[int, Path]]:
    """The version and the folder of each group that this process belongs to, innermost first."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, resources, path = line.split(":", 2)
        if resources and resource not in resources.split(","):
            continue
        version, top = (1, root / resource) if resources else (2, root)
        own = top / path.removeprefix("/")
        for group in (own, *(above for above in own.parents if above.is_relative_to(top))):
            yield version, group
