"""What a check found: one line for people, the verdict, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is. Only a failure makes `tartan doctor` end with an error."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result; `remedy` is empty where nothing needs to be done."""

    check: str
    found: str
    verdict: Verdict = Verdict.OK
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(check, found)


def warn(check: str, found: str, remedy: str) -> Finding:
    """It works, and may not for long, or not well."""
    return Finding(check, found, Verdict.WARN, remedy)


def fail(check: str, found: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check, found, Verdict.FAIL, remedy)


def worst(findings: Sequence[Finding]) -> Verdict:
    """The worst verdict of all; OK where there is none."""
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)
