"""Start an engine's adapter in its own process and environment, and take its answer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from engines import EngineSpec
from machine import busy

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
ADAPTER_LIMIT_S = 3600


@dataclass(frozen=True)
class Bench:
    """How all engines of one benchmark are run.

    Attributes:
        root: the repository.
        work: the cache folder of this collection; indexes are built in it.
        threads: for building and searching.
        warmup: queries before each measured run.
        passes: over all queries; a query's latency is its median over them.
        max_seconds: after which a run makes no further pass.
    """

    root: Path
    work: Path
    threads: int
    warmup: int
    passes: int
    max_seconds: float

    def index(self, spec: EngineSpec, options: dict[str, Any]) -> Path:
        """Where an engine's index goes."""
        return self.work / f"{spec.name}-{label_of(options).replace(' ', '-')}"

    def is_built(self, spec: EngineSpec, options: dict[str, Any]) -> bool:
        """Whether the index is there and was built from the present vectors."""
        record = self._record(self.index(spec, options))
        made = (self.work / "tokens.npy").stat().st_mtime
        return record.exists() and record.stat().st_mtime > made

    def build(self, spec: EngineSpec, options: dict[str, Any], *, rebuild: bool) -> dict[str, Any]:
        """Build, or take what an earlier run built from the same vectors."""
        index = self.index(spec, options)
        record = self._record(index)
        if not rebuild and self.is_built(spec, options):
            return dict(json.loads(record.read_text(encoding="utf-8")))
        record.unlink(missing_ok=True)
        shutil.rmtree(index, ignore_errors=True)
        answer = self._adapter(spec, {"action": "build", "options": options}, index)
        record.write_text(json.dumps(answer), encoding="utf-8")
        return answer

    def search(self, spec: EngineSpec, options: dict[str, Any], ks: list[int]) -> dict[str, Any]:
        """Every setting at every k, in one fresh process; `labels` names the runs."""
        runs = [(label, setting, k) for label, setting in spec.settings for k in ks]
        request = {
            "action": "search",
            "runs": [{"setting": setting, "k": k} for _, setting, k in runs],
            "warmup": self.warmup,
            "passes": self.passes,
            "max_seconds": self.max_seconds,
        }
        answer = self._adapter(spec, request, self.index(spec, options))
        return answer | {"labels": [label for label, _, _ in runs]}

    def _record(self, index: Path) -> Path:
        return self.work / f"{index.name}.build.json"

    def _adapter(self, spec: EngineSpec, request: dict[str, Any], index: Path) -> dict[str, Any]:
        """Raises RuntimeError with the end of its output when the adapter fails."""
        stem = f"{index.name}.{request['action']}"
        asked, answered = self.work / f"{stem}.request.json", self.work / f"{stem}.answer.json"
        answered.unlink(missing_ok=True)
        request = request | {
            "threads": self.threads,
            "vectors": str(self.work),
            "index": str(index),
        }
        asked.write_text(json.dumps(request), encoding="utf-8")
        python = interpreter(self.root, spec)
        script = self.root / "benchmarks" / "peers" / spec.script
        load = busy()
        print(f"{request['action']} {index.name} …", flush=True)
        done = subprocess.run(
            [str(python), str(script), str(asked), str(answered)],
            env=self._environment(spec, python),
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=ADAPTER_LIMIT_S,
            check=False,
        )
        if done.returncode != 0 or not answered.exists():
            raise RuntimeError(f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        answer = dict(json.loads(answered.read_text(encoding="utf-8")))
        return answer | {"load_before": load, "load_after": busy()}

    def _environment(self, spec: EngineSpec, python: Path) -> dict[str, str]:
        settings = {name: str(self.threads) for name in THREAD_VARIABLES}
        settings["BENCH_IMPORTS"] = "torch" if spec.uses_torch else ""
        settings["PATH"] = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return os.environ | settings


def interpreter(root: Path, spec: EngineSpec) -> Path:
    """The Python of an engine's environment.

    Raises:
        RuntimeError: the environment has not been made.
    """
    if spec.environment is None:
        return Path(sys.executable)
    python = root / ".venv-peers" / spec.environment / "bin" / "python"
    if not python.exists():
        raise RuntimeError(f"{spec.name} has no environment at {python.parent}: run `make peers`")
    return python


def label_of(options: dict[str, Any]) -> str:
    """A short name of one index: codec where there is a choice, and bits."""
    codec = f"{options['codec']} " if "codec" in options else ""
    return f"{codec}{options['bits']}-bit"


def index_bytes(index: Path, kept_twice: tuple[str, ...]) -> dict[str, int]:
    """Bytes of all files, and without those that hold what another file holds too."""
    sizes = {path: path.stat().st_size for path in index.rglob("*") if path.is_file()}
    twice = sum(
        size
        for path, size in sizes.items()
        if any(fnmatch(path.name, pattern) for pattern in kept_twice)
    )
    total = sum(sizes.values())
    return {"total": total, "once": total - twice}
