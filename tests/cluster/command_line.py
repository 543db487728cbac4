"""A command line that is run in this process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cluster.cli import main


class Result:
    """Exit code and what was printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def json(self) -> Any:
        return json.loads(self.out)


def runner(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *before: str
) -> Callable[..., Result]:
    """Runs `tartan`, the words `before`, and those that it is given."""

    def run(*words: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["tartan", *before, *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return run
