"""The memory of a running index job, process by process and stage by stage, from `/proc`.

Anonymous memory is what a process has for itself and the machine cannot take back. Resident memory
(`RSS`) counts mapped files as well: libraries, and the index's own arrays, which are the page
cache's and go when others want the room.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import IO, Any

EVERY_S = 0.2
LOOK_FOR_WORKERS_EVERY_S = 1.0
WORKER = "ray::EncoderWorker"
STAGES = ("read", "start", "sample", "train", "encode", "write", "calibrate", "publish")
_FIELDS = re.compile(r"^(VmHWM|VmRSS|RssAnon):\s+(\d+) kB$", re.MULTILINE)
_FINISHED = re.compile(r"^(\w+): .* in [\d,.]+ (s|min|h)")

Peaks = dict[str, int]


class Watched:
    """A started index job, sampled until it ends. The driver is the process itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.stage = 0
        self.said: list[str] = []
        self.peaks: defaultdict[tuple[str, int, int], Peaks] = defaultdict(dict)
        """Most bytes by (role, stage, process): "anonymous", and "rss" of the process so far."""
        self._cpu: dict[tuple[int, int], tuple[float, float]] = {}
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._follow, args=(process.stderr,), daemon=True)

    def until_the_end(self, timeout_s: float) -> None:
        """Sample until the job ends; it is killed when that takes too long.

        Raises:
            TimeoutError: it did.
        """
        self._reader.start()
        deadline, looked_at, workers = time.monotonic() + timeout_s, 0.0, set[int]()
        while self._process.poll() is None:
            now = time.monotonic()
            if now > deadline:
                self._process.terminate()
                raise TimeoutError(f"the job took over {timeout_s:.0f} s:\n{self.said[-5:]}")
            if now - looked_at > LOOK_FOR_WORKERS_EVERY_S:
                workers, looked_at = _workers_of(self._process.pid), now
            self._sample("driver", self._process.pid)
            for pid in workers:
                self._sample("worker", pid)
            time.sleep(EVERY_S)
        self._reader.join(timeout=10)

    def summary(self) -> dict[str, Any]:
        """Peaks in bytes, of the driver and of the largest worker: over all, and by stage."""
        roles: dict[str, Any] = {}
        for role in ("driver", "worker"):
            mine = {key: peak for key, peak in self.peaks.items() if key[0] == role}
            by_stage = {
                name: max(
                    (peak["anonymous"] for (_, at, _), peak in mine.items() if at == number),
                    default=None,
                )
                for number, name in enumerate(STAGES)
            }
            roles[role] = {
                "anonymous": max((peak["anonymous"] for peak in mine.values()), default=0),
                "rss": max((peak["rss"] for peak in mine.values()), default=0),
                "anonymous_by_stage": by_stage,
            }
        return roles

    def worker_cpu_s(self, *stages: str) -> float:
        """Processor seconds of all workers in some stages, as far as samples reach."""
        wanted = {STAGES.index(name) for name in stages}
        return sum(last - first for (at, _), (first, last) in self._cpu.items() if at in wanted)

    def _follow(self, lines: IO[str]) -> None:
        for line in lines:
            self.said.append(line.rstrip())
            finished = _FINISHED.match(line)
            if finished and finished[1] == STAGES[min(self.stage, len(STAGES) - 1)]:
                self.stage += 1

    def _sample(self, role: str, pid: int) -> None:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
            used = _cpu_s(pid)
        except OSError:
            return  # it has ended
        found = {name: 1024 * int(kib) for name, kib in _FIELDS.findall(text)}
        if "RssAnon" in found:
            stage = min(self.stage, len(STAGES) - 1)
            if role == "worker":
                self._cpu[stage, pid] = self._cpu.get((stage, pid), (used, used))[0], used
            peak = self.peaks[role, stage, pid]
            peak["anonymous"] = max(peak.get("anonymous", 0), found["RssAnon"])
            peak["rss"] = max(peak.get("rss", 0), found["VmHWM"])


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _workers_of(root: int) -> set[int]:
    """Encoding workers among what a process started, directly or not."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text()
            except OSError:
                continue
            children[int(stat.rpartition(")")[2].split()[1])].append(int(name))
    found, todo = set(), [root]
    while todo:
        todo += children[pid := todo.pop()]
        try:
            if Path(f"/proc/{pid}/cmdline").read_text().startswith(WORKER):
                found.add(pid)
        except OSError:
            continue
    return found
