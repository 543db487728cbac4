"""The audit of dependencies: nothing that was not looked up reads as passed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("audit", AUDIT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = load()
CLEAN = {"name": "good", "version": "1", "vulns": []}
SKIPPED = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}
BAD = {
    "name": "bad",
    "version": "2.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}, {"id": "PYSEC-2", "fix_versions": []}],
}


def test_what_was_looked_up_and_is_clean_passes() -> None:
    code, text = audit.judge([CLEAN, CLEAN])
    assert code == audit.CLEAN == 0
    assert "2 packages" in text


def test_what_is_known_is_named_with_the_version_that_mends_it() -> None:
    code, text = audit.judge([CLEAN, BAD, SKIPPED])
    assert code == audit.FOUND == 1
    assert "bad 2.0: PYSEC-1, mended in 2.1" in text
    assert "PYSEC-2, mended in no version yet" in text


def test_one_package_that_was_not_looked_up_is_no_pass() -> None:
    for packages in ([CLEAN, SKIPPED], [SKIPPED], []):
        code, text = audit.judge(packages)
        assert code == audit.NOT_DONE == 3
        assert "NOT DONE" in text
        assert "no pass" in text


def test_without_a_network_it_says_that_it_was_not_done(tmp_path: Path) -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "XDG_CACHE_HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, str(AUDIT)],
        env={**os.environ, **nowhere, "PIP_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 3, ran.stderr
    assert "AUDIT NOT DONE" in ran.stderr
