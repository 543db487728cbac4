"""What a result was measured on: the processor, its load, and the versions of the engines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engines import EngineSpec

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp")


def machine() -> dict[str, Any]:
    """Processor, cores, memory, operating system; nothing that names the host."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = {}
    for line in info.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    memory = next(
        line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line
    )
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gib": round(int(memory.split()[1]) / 2**20, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    }


def busy() -> float:
    """The 1-minute load average: how many processes wanted a core."""
    return round(os.getloadavg()[0], 2)


def versions(root: Path, spec: EngineSpec) -> dict[str, str]:
    """The versions of an engine's packages in its own environment."""
    if spec.environment is None:
        return {name: version(name) for name in spec.packages}
    python = root / ".venv-peers" / spec.environment / "bin" / "python"
    ask = (
        "import json, sys; from importlib.metadata import version;"
        "print(json.dumps({n: version(n) for n in sys.argv[1:]}))"
    )
    if not python.exists():
        return {}
    out = subprocess.run(
        [str(python), "-c", ask, *spec.packages], capture_output=True, text=True, check=True
    )
    return dict(json.loads(out.stdout))
