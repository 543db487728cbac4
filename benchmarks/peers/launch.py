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

from engines import EngineSpec, Run
from machine import busy

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "RAYON_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
LIMIT_S = {"build": 4 * 3600, "search": 2 * 3600}


@dataclass(frozen=True)
class Bench:
    """How all engines of one benchmark are run.

    Attributes:
        root: the repository.
        work: the cache folder of this collection; indexes are built in it.
        threads: for building.
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
        request = {"action": "build", "options": options}
        answer = self._adapter(spec, request, index, self.threads)
        record.write_text(json.dumps(answer), encoding="utf-8")
        return answer

    def search(
        self,
        spec: EngineSpec,
        options: dict[str, Any],
        runs: list[Run],
        *,
        threads: int,
        together: list[tuple[Run, int]],
    ) -> dict[str, Any]:
        """All `runs` in one fresh process, a query on `threads` threads; then `together`, many
        queries at a time, each with how many."""
        request = {
            "action": "search",
            "runs": [_asked(run) for run in runs],
            "together": [_asked(run) | {"threads": at_once} for run, at_once in together],
            "warmup": self.warmup,
            "passes": self.passes,
            "max_seconds": self.max_seconds,
        }
        return self._adapter(spec, request, self.index(spec, options), threads)

    def _record(self, index: Path) -> Path:
        return self.work / f"{index.name}.build.json"

    def _adapter(
        self, spec: EngineSpec, request: dict[str, Any], index: Path, threads: int
    ) -> dict[str, Any]:
        """Raises RuntimeError with the end of its output when the adapter fails or takes hours."""
        stem = f"{index.name}.{request['action']}"
        asked, answered = self.work / f"{stem}.request.json", self.work / f"{stem}.answer.json"
        answered.unlink(missing_ok=True)
        request = request | {
            "threads": threads,
            "vectors": str(self.work),
            "index": str(index),
        }
        asked.write_text(json.dumps(request), encoding="utf-8")
        python = interpreter(self.root, spec)
        script = self.root / "benchmarks" / "peers" / spec.script
        load = busy()
        print(f"{request['action']} {index.name} …", flush=True)
        try:
            done = subprocess.run(
                [str(python), str(script), str(asked), str(answered)],
                env=self._environment(spec, python, threads),
                cwd=self.work,
                capture_output=True,
                text=True,
                timeout=LIMIT_S[request["action"]],
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"not done after {error.timeout:,.0f} s") from error
        if done.returncode != 0 or not answered.exists():
            raise RuntimeError(f"exit {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")
        answer = dict(json.loads(answered.read_text(encoding="utf-8")))
        return answer | {"load_before": load, "load_after": busy()}

    def _environment(self, spec: EngineSpec, python: Path, threads: int) -> dict[str, str]:
        settings = {name: str(threads) for name in THREAD_VARIABLES}
        settings["BENCH_IMPORTS"] = "torch" if spec.uses_torch else ""
        settings["PATH"] = f"{python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        if spec.environment is None:
            settings["PYTHONPATH"] = str(self.root)  # what lies here is what is measured
        return os.environ | settings


def _asked(run: Run) -> dict[str, Any]:
    return {"setting": run.setting.knobs, "k": run.k}


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
    factor = options.get("centroids_factor")
    more = f", {factor}x centroids" if factor else ""
    return f"{codec}{options['bits']}-bit{more}"


def index_bytes(index: Path, spec: EngineSpec) -> dict[str, int]:
    """Bytes of an index's files.

    `total` is all of it but stored texts, `once` that without the files that hold what another
    file holds too, `texts` the stored texts.
    """
    sizes = {path: path.stat().st_size for path in index.rglob("*") if path.is_file()}

    def of(patterns: tuple[str, ...]) -> int:
        named = [path for path in sizes if any(fnmatch(path.name, one) for one in patterns)]
        return sum(sizes[path] for path in named)

    texts = of(spec.texts)
    total = sum(sizes.values()) - texts
    return {"total": total, "once": total - of(spec.kept_twice), "texts": texts}
