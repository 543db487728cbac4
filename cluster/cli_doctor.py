"""`tartan doctor`: prints what each check found, its verdict, and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from cluster.doctor.examine import Patient, examine
from cluster.doctor.findings import Finding, Verdict, worst

NAME_WIDTH = 20
_STYLES = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}


def doctor_command(patient: Patient, *, as_json: bool) -> int:
    """Examine, print, and give the exit code: 1 where a check failed."""
    if as_json:
        findings = list(examine(patient))
        verdict = worst(findings)
        print(json.dumps({"verdict": verdict, "findings": [asdict(one) for one in findings]}))
        return int(verdict is Verdict.FAIL)
    console = Console(highlight=False, soft_wrap=True)
    return int(worst(_print_each(console, examine(patient))) is Verdict.FAIL)


def _print_each(console: Console, findings: Iterable[Finding]) -> list[Finding]:
    """Print each as soon as it is found: some take seconds."""
    seen = []
    for finding in findings:
        seen.append(finding)
        verdict = Text(f"{finding.verdict:<5}", _STYLES[finding.verdict])
        console.print(verdict + Text(f"{finding.check:<{NAME_WIDTH}} {finding.found}"))
        if finding.remedy:
            console.print(Text(f"{'':<6}→ {finding.remedy}"))
    counts = {verdict: sum(one.verdict is verdict for one in seen) for verdict in Verdict}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return seen
