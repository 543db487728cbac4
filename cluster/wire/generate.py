"""Generate the Python stubs of proto/ into cluster/wire/, or check that they are fresh.

    python -m cluster.wire.generate            write the stubs
    python -m cluster.wire.generate --check    exit 1 naming each stale, missing or left-over stub

protoc writes `from tartan.v1 import search_pb2`, which would need a top-level package `tartan`.
The stubs live in `cluster.wire.tartan` instead, so these imports are rewritten: the same files then
work in an editable install and in a wheel. Descriptors keep the names of the .proto files.
Needs grpcio-tools and mypy-protobuf, at the versions of the development environment: their
versions are written into the stubs.
"""

from __future__ import annotations

import argparse
import re
import sys
import sysconfig
import tempfile
from pathlib import Path

WIRE_DIR = Path(__file__).resolve().parent
PROTO_DIR = WIRE_DIR.parents[1] / "proto"
STUB_PACKAGE = "cluster.wire"
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")

# An import of a generated module of ours: `from tartan.v1 import x` or `import tartan.v1.x_pb2`.
_OWN_IMPORT = re.compile(r"^(\s*)(from|import) (tartan(?:\.\w+)+)", re.MULTILINE)


def rewrite_imports(source: str) -> str:
    """Move the imports of generated modules from `tartan.…` to `cluster.wire.tartan.…`."""
    return _OWN_IMPORT.sub(rf"\1\2 {STUB_PACKAGE}.\3", source)


def generate(proto_dir: Path = PROTO_DIR) -> dict[str, str]:
    """Run protoc over every .proto file.

    Returns:
        The text of each generated file by its path under cluster/wire, `__init__.py` included.

    Raises:
        RuntimeError: protoc refused a file; its own message is on stderr.
    """
    from grpc_tools import protoc  # type: ignore[import-untyped]

    sources = sorted(str(path.relative_to(proto_dir)) for path in proto_dir.rglob("*.proto"))
    if not sources:
        raise RuntimeError(f"no .proto files under {proto_dir}")
    # The plugins lie beside this interpreter, whether or not its environment is activated.
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={name}={scripts / name}" for name in PLUGINS]
    with tempfile.TemporaryDirectory() as out:
        outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
        if protoc.main(["protoc", f"-I{proto_dir}", *plugins, *outputs, *sources]) != 0:
            raise RuntimeError(f"protoc refused {', '.join(sources)}")
        files = {
            path.relative_to(out).as_posix(): rewrite_imports(path.read_text())
            for path in sorted(Path(out).rglob("*.py*"))
        }
    packages = {parent for name in files for parent in Path(name).parents if str(parent) != "."}
    files |= {(package / "__init__.py").as_posix(): "" for package in packages}
    return files


def stale(wanted: dict[str, str], wire_dir: Path = WIRE_DIR) -> list[str]:
    """One line for every stub that differs from `wanted`, is missing, or has no source any more."""
    present = {
        path.relative_to(wire_dir).as_posix(): path.read_text()
        for path in (wire_dir / "tartan").rglob("*.py*")
        if "__pycache__" not in path.parts
    }
    lines = [f"{name}: missing" for name in sorted(wanted.keys() - present.keys())]
    lines += [f"{name}: has no .proto" for name in sorted(present.keys() - wanted.keys())]
    both = sorted(wanted.keys() & present.keys())
    return lines + [f"{name}: stale" for name in both if wanted[name] != present[name]]


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Generate the gRPC stubs, or check them.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args(argv).check
    wanted = generate()
    problems = stale(wanted)
    if check:
        for line in problems:
            print(f"cluster/wire/{line}", file=sys.stderr)
        if problems:
            print("run: python -m cluster.wire.generate", file=sys.stderr)
        return 1 if problems else 0
    for line in problems:
        if line.endswith("has no .proto"):
            (WIRE_DIR / line.rsplit(":", 1)[0]).unlink()
    for name, text in wanted.items():
        path = WIRE_DIR / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
