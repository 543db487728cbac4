"""Whether a pinned dependency has a known vulnerability: `make audit`, a part of `make check`.

pip-audit says "No known vulnerabilities found", and exits with 0, also when an index or mirror that
has no advisories answered about none of the packages. So its report is read here, and three things
are told apart, by exit code:

    0  every package was looked up, and there is nothing known against any
    1  there is something known: the packages, the advisories and the versions that mend it
    3  NOT DONE: advisories could not be had, of some or all packages
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
TIMEOUT_S = 300.0
CLEAN, FOUND, NOT_DONE = 0, 1, 3


def main() -> int:
    """Look every pin up; print one paragraph, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(PINS), "--no-deps", "--disable-pip"]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        report = json.loads(ran.stdout)
    except subprocess.TimeoutExpired:
        code, text = not_done(f"pip-audit took longer than {TIMEOUT_S:.0f} s")
    except ValueError:
        code, text = not_done((ran.stderr.strip() or "pip-audit said nothing").splitlines()[-1])
    else:
        code, text = judge(report["dependencies"])
    print(text, file=sys.stderr)
    return code


def judge(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """Exit code and text for what pip-audit reports of each package.

    What was found outweighs what could not be looked up.
    """
    skipped = [package for package in packages if "vulns" not in package]
    found = [
        f"  {package['name']} {package['version']}: {advisory['id']}, "
        f"mended in {', '.join(advisory['fix_versions']) or 'no version yet'}"
        for package in packages
        for advisory in package.get("vulns", ())
    ]
    if found:
        return FOUND, "\n".join([f"AUDIT: {len(found)} known vulnerabilities:", *found])
    if skipped or not packages:
        reason = skipped[0]["skip_reason"] if skipped else "there are no pins"
        return not_done(f"{len(skipped)} of {len(packages)} packages not looked up: {reason}")
    return CLEAN, f"audit: {len(packages)} packages, nothing known against any"


def not_done(reason: str) -> tuple[int, str]:
    """Exit code and text where there is no result."""
    return NOT_DONE, (
        f"AUDIT NOT DONE: {reason}\n"
        "  This is no pass. Run `make audit` where https://pypi.org/pypi/NAME/VERSION/json answers."
    )


if __name__ == "__main__":
    sys.exit(main())
