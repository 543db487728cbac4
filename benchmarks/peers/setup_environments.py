"""Make the environments of the peers under `.venv-peers/`, each with exact pins.

    python3 benchmarks/peers/setup_environments.py [colbert] [plaid] [pylate]

They are apart from `.venv` because they pin other versions of torch and transformers. An
environment whose pins have not changed is left alone. Needs the package index, about 8 GB of disk
(the PyPI build of torch 2.11.0 that fast-plaid is linked against brings CUDA libraries) and a C++
compiler (colbert-ai compiles an extension when it first loads).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements"
ENVIRONMENTS = HERE.parents[1] / ".venv-peers"

# Environment → its requirement files, each with the options that pip gets.
RECIPES: dict[str, list[tuple[str, list[str]]]] = {
    "colbert": [
        ("colbert.txt", []),
        ("colbert-transformers4.txt", ["--no-deps", "--target", "{overlay}"]),
    ],
    "plaid": [("plaid.txt", [])],
    "pylate": [("pylate.txt", []), ("pylate-nodeps.txt", ["--no-deps"])],
}


def overlay(name: str) -> Path:
    """The folder that goes before `name`'s own packages when colbert-ai loads a model."""
    return ENVIRONMENTS / f"{name}-transformers4"


def fingerprint(name: str) -> str:
    """Changes when a pin or an option of `name` does."""
    digest = hashlib.sha256(sys.version.encode())
    for file, options in RECIPES[name]:
        digest.update((REQUIREMENTS / file).read_bytes())
        digest.update(" ".join(options).encode())
    return digest.hexdigest()


def make(name: str) -> None:
    """Create or complete one environment; raises CalledProcessError when pip fails."""
    folder = ENVIRONMENTS / name
    stamp = folder / ".pins"
    if stamp.exists() and stamp.read_text() == fingerprint(name):
        print(f"{name}: as pinned")
        return
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    for file, options in RECIPES[name]:
        filled = [option.format(overlay=overlay(name)) for option in options]
        print(f"{name}: {file}", flush=True)
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--upgrade"]
        subprocess.run([*install, *filled, "-r", str(REQUIREMENTS / file)], check=True)
    stamp.write_text(fingerprint(name))


def main() -> None:
    """Make the environments that were named, or all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *RECIPES], help="default: all")
    names = parser.parse_args().names or list(RECIPES)
    os.environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    for name in names:
        make(name)


if __name__ == "__main__":
    main()
