"""The container file: linted, and given everything that the wheel is built from."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import ROOT


def lint(text: str) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    return subprocess.run(
        [hadolint, "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_linter_has_nothing_to_say() -> None:
    text = (ROOT / "Containerfile").read_text()
    clean = lint(text)
    assert (clean.returncode, clean.stdout) == (0, "")
    assert lint(text.replace("USER 1000", "USER 0")).returncode != 0
    assert lint(text.replace("RUN pip", "RUNN pip")).returncode != 0


def sent() -> list[Path]:
    """The tracked files that .dockerignore leaves in the build's context."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().split() if line != "*"]
    kept = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [Path(line) for line in listed.stdout.splitlines()]
    return [file for file in files if any(fnmatch.fnmatch(file.parts[0], name) for name in kept)]


def test_the_context_is_small_and_has_no_secrets() -> None:
    files = sent()
    assert {file.parts[0] for file in files} >= {"pyproject.toml", "cluster", "constraints.txt"}
    assert not {"tests", ".git", "benchmarks"} & {file.parts[0] for file in files}


@pytest.mark.long
def test_the_wheel_is_built_from_the_context_alone(tmp_path: Path) -> None:
    for file in sent():
        (tmp_path / "context" / file.parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / "context" / file)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run(
        [*command, "-w", str(tmp_path / "dist"), str(tmp_path / "context")],
        check=True,
        timeout=1200,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
    )
    assert list((tmp_path / "dist").glob("tartan_search-*.whl"))
