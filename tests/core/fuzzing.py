"""Feeds damaged files to every reader, in a process of its own that must not die.

    .venv/bin/python tests/core/fuzzing.py TARGET SEED CASES

Every case damages one file of a small whole set and reads it. It must end, in bounded memory, with
an answer or with one of our errors; a wrong answer must not pass `check_index`. The last line that
is printed says how many cases ran, were refused and were read; a case that breaks the rules ends
the process with its number, so that SEED and it reproduce it.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # whatever else is installed, this checkout is meant

from colbert_core import Index  # noqa: E402
from colbert_core.codec import Codec  # noqa: E402
from colbert_core.errors import TartanError  # noqa: E402
from colbert_core.importing import import_index  # noqa: E402
from colbert_core.index import check_index, read_current  # noqa: E402
from colbert_core.index.importers.torch_file import read_torch  # noqa: E402
from colbert_core.index.manifest import Manifest  # noqa: E402
from colbert_core.npy import map_npy  # noqa: E402
from colbert_core.packed_ints import PackedInts  # noqa: E402
from colbert_core.posting_lists import decode_list  # noqa: E402
from colbert_core.text.corpus import read_corpus  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"
CASE_TIMEOUT_S = 20
MEMORY_BYTES = 6 << 30
INTERESTING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 31,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
Rng = np.random.Generator


class Broken(AssertionError):
    """A reader broke the rules."""


def damage(data: bytes, rng: Rng, same_size: bool = False) -> bytes:
    """A few random changes of a file."""
    new = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(0, 5 if same_size else 9))
        at = int(rng.integers(0, max(1, len(new))))
        if kind == 0 and new:
            new[at] ^= 1 << int(rng.integers(8))
        elif kind == 1 and new:
            new[at] = int(rng.integers(256))
        elif kind == 2:  # a number that breaks arithmetic
            size = int(rng.choice([1, 2, 4, 8]))
            value = int(INTERESTING[int(rng.integers(len(INTERESTING)))]) & ((1 << 8 * size) - 1)
            new[at : at + size] = value.to_bytes(size, "little")[: len(new) - at]
        elif kind == 3:
            length = int(rng.integers(1, 65))
            new[at : at + length] = bytes(len(new[at : at + length]))
        elif kind == 4:
            length = int(rng.integers(1, 33))
            part = new[at : at + length]
            to = int(rng.integers(0, max(1, len(new) - len(part) + 1)))
            new[to : to + len(part)] = part
        elif kind == 5:
            del new[at:]
        elif kind == 6:
            del new[at : at + int(rng.integers(1, 65))]
        elif kind == 7:
            new[at:at] = rng.bytes(int(rng.integers(1, 65)))
        else:
            new += rng.bytes(int(rng.integers(1, 65)))
    return bytes(new)


def damage_json(data: bytes, rng: Rng) -> bytes:
    """One value of a JSON document replaced or left out; or any damage."""
    if rng.random() < 0.3:
        return damage(data, rng)
    document = json.loads(data)
    places: list[tuple[object, object]] = []

    def walk(value: object) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value)  # type: ignore[arg-type]
        for key, child in items:
            places.append((value, key))
            if isinstance(child, dict | list):
                walk(child)

    walk(document)
    owner, key = places[int(rng.integers(len(places)))]
    choices = (
        None,
        -1,
        0,
        1,
        1 << 40,
        1e308,
        "",
        "../x",
        "\0",
        [],
        {},
        True,
        [[]],
        {"a": 1},
        "tartan",
    )
    if rng.random() < 0.15 and isinstance(owner, dict):
        del owner[key]
    elif isinstance(owner, dict | list):
        owner[key] = choices[int(rng.integers(len(choices)))]  # type: ignore[index,call-overload]
    return json.dumps(document).encode()


def put(path: Path, data: bytes) -> None:
    """Replace a file; what maps the old one keeps it."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


class IndexTarget:
    """A frozen index: damaged files under right checksums, or under wrong ones."""

    def __init__(self, folder: Path, case: str, resign: bool) -> None:
        source = FIXTURES / case
        self.index = Path(shutil.copytree(source / "index", folder / "ix"))
        self.expected = np.load(source / "expected.npz")
        self.query = self.expected["queries"][0]
        self.files = sorted(read_current(self.index).files)
        self.whole = {name: (self.index / name).read_bytes() for name in self.files}
        self.resign = resign
        self.pointer = (self.index / "CURRENT").read_bytes()
        self.manifest_path = next((self.index / "generations").glob("*.json"))
        self.manifest = self.manifest_path.read_bytes()

    def __call__(self, rng: Rng) -> bool:
        name = self.files[int(rng.integers(len(self.files)))]
        data = damage(self.whole[name], rng, same_size=not self.resign)
        put(self.index / name, data)
        try:
            if self.resign:
                self.sign(name, data)
            else:
                problems = check_index(self.index).problems
                if (data != self.whole[name]) != bool(problems):
                    raise Broken(f"{name}: {len(problems)} problems")
            return self.search()
        finally:
            put(self.index / name, self.whole[name])
            if self.resign:
                put(self.manifest_path, self.manifest)
                put(self.index / "CURRENT", self.pointer)

    def sign(self, name: str, data: bytes) -> None:
        manifest = json.loads(self.manifest)
        digest = hashlib_hex(data)
        manifest["files"][name] = {"size_bytes": len(data), "sha256": digest}
        new = json.dumps(manifest).encode()
        put(self.manifest_path, new)
        pointer = json.loads(self.pointer) | {"manifest_sha256": hashlib_hex(new)}
        put(self.index / "CURRENT", json.dumps(pointer).encode())
        check_index(self.index, deep=True)  # whatever it finds, it says so and lives

    def search(self) -> bool:
        try:
            index = Index.open(self.index)
            for found in (
                index.search(self.query, k=10),
                index.search(self.query, k=10, exact=True),
                index.search(self.query, k=30, nprobe=12, candidates=30),
            ):
                if len(set(found.ids)) > 30:
                    raise Broken("more hits than passages")
                _ = [(hit.id, hit.text, hit.metadata) for hit in found]
            index.search(self.query, k=3, filter=["id-1", "id-9"])
            if index.fields:
                index.search(self.query, k=3, filter="n >= 2 and not even = true")
            _ = [hit.matches for hit in index.search(self.query, k=1, explain=True)]
        except TartanError:
            return False
        except RuntimeError as error:  # from a kernel, which names the remedy
            if "tartan index verify" not in str(error):
                raise
            return False
        return True


class ManifestTarget(IndexTarget):
    """`CURRENT` and the manifest, rightly signed or not, read, checked and opened by name."""

    def __call__(self, rng: Rng) -> bool:
        pointer = rng.random() < 0.2
        try:
            if pointer:
                put(self.index / "CURRENT", damage_json(self.pointer, rng))
            else:
                new = damage_json(self.manifest, rng)
                put(self.manifest_path, new)
                signed = json.loads(self.pointer) | {"manifest_sha256": hashlib_hex(new)}
                put(self.index / "CURRENT", json.dumps(signed).encode())
                try:
                    Manifest.from_json(new, "m")
                except TartanError:
                    return False
            try:
                check_index(self.index)
            except TartanError:
                return False
            return self.search()
        finally:
            put(self.manifest_path, self.manifest)
            put(self.index / "CURRENT", self.pointer)


def hashlib_hex(data: bytes) -> str:
    """SHA-256."""
    import hashlib

    return hashlib.sha256(data).hexdigest()


class FileTarget:
    """One reader of single files."""

    def __init__(
        self,
        folder: Path,
        files: list[Path],
        read: Callable[[Path], object],
        *errors: type[Exception],
        checked: bool = False,
    ) -> None:
        self.folder, self.read, self.errors = folder, read, (TartanError, *errors)
        self.whole = [(path.name, path.read_bytes()) for path in files]
        self.right = {path.name: read(path) for path in files} if checked else {}

    def __call__(self, rng: Rng) -> bool:
        name, data = self.whole[int(rng.integers(len(self.whole)))]
        put(self.folder / name, damage(data, rng))
        try:
            found = self.read(self.folder / name)
        except self.errors:
            return False
        if self.right and found != self.right[name]:
            raise Broken(f"{name}: other contents passed its checksums")
        return True


class CodecTarget:
    """The files of a codec, read together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sets = []
        for case in ("tartan-2", "colbertv2-4"):
            source = next((FIXTURES / "index_v3" / case / "index" / "global").iterdir())
            copied = Path(shutil.copytree(source, folder / case))
            self.sets.append((copied, {path.name: path.read_bytes() for path in copied.iterdir()}))

    def __call__(self, rng: Rng) -> bool:
        folder, whole = self.sets[int(rng.integers(len(self.sets)))]
        name = sorted(whole)[int(rng.integers(len(whole)))]
        put(folder / name, damage(whole[name], rng))
        try:
            codec = Codec.load(folder)
            codec.centroid_table.probe(codec.rotate(np.ones((2, codec.dim), np.float32)), 2)
        except TartanError:
            return False
        finally:
            put(folder / name, whole[name])
        return True


class ImportTarget:
    """The index of another engine, imported."""

    def __init__(self, folder: Path, case: str) -> None:
        self.source = Path(
            shutil.copytree(FIXTURES / "imports" / case / "index", folder / "source")
        )
        self.out = folder / "out"
        self.whole = {path.name: path.read_bytes() for path in self.source.iterdir()}
        self.names = sorted(self.whole)

    def __call__(self, rng: Rng) -> bool:
        name = self.names[int(rng.integers(len(self.names)))]
        is_json = name.endswith(".json") and rng.random() < 0.7
        put(self.source / name, (damage_json if is_json else damage)(self.whole[name], rng))
        try:
            import_index(self.source, self.out)
            if check_index(self.out).problems:
                raise Broken(f"{name}: what was imported is not whole")
        except TartanError:
            if any(self.out.rglob("*.json")):
                raise Broken(f"{name}: a refused import left an index") from None
            return False
        finally:
            put(self.source / name, self.whole[name])
            shutil.rmtree(self.out, ignore_errors=True)
        return True


def packed_target(rng: Rng) -> bool:
    """Packed integers and posting lists of random bytes."""
    data = np.frombuffer(rng.bytes(int(rng.integers(0, 60))), np.uint8)
    try:
        if rng.random() < 0.5:
            largest = 1 << int(rng.integers(0, 56))
            values = PackedInts("x", data, int(rng.integers(0, 60)), largest)
            values.read(0, len(values))
        else:
            passages = int(rng.integers(1, 1 << int(rng.integers(1, 31))))
            start, end = sorted(rng.integers(0, len(data) + 3, 2).tolist())
            found = decode_list(data, start, end, passages)
            if len(found) and not (int(found.min()) >= 0 and int(found.max()) < passages):
                raise Broken("a posting outside of the shard")
    except ValueError:
        return False
    return True


def corpora(folder: Path) -> list[Path]:
    """A small corpus in every format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"_id": f"d{i}", "text": f"tëxt {i}", "n": i, "tags": ["a", "b"]} for i in range(20)]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "b.tsv").write_text("\n".join(f"d{i}\ttext {i}" for i in range(20)))
    (folder / "c.tsv").write_text(
        "id\ttitle\ttext\n" + "\n".join(f"d{i}\tt\ttext" for i in range(9))
    )
    (folder / "d.jsonl.gz").write_bytes(gzip.compress(lines))
    pq.write_table(pa.Table.from_pylist(rows), folder / "e.parquet")
    pq.write_table(pa.Table.from_pylist(rows), folder / "f.parquet", compression="zstd")
    return sorted(folder.iterdir())


def contents(path: Path) -> str:
    """What a `.pt` file holds, to the bit."""
    value = read_torch(path)
    arrays = value if isinstance(value, tuple) else (value,)
    return str([(a.dtype, a.shape, a.tobytes()) for a in arrays if isinstance(a, np.ndarray)])


def torch_files() -> list[Path]:
    """`.pt` files that colbert-ai wrote."""
    return sorted((FIXTURES / "imports" / "stanford-2" / "index").glob("*.pt"))


def target(name: str, folder: Path) -> Callable[[Rng], bool]:
    """What is fuzzed under a name."""
    kind, _, case = name.partition(":")
    if kind == "index":
        return IndexTarget(folder, case, resign=False)
    if kind == "resigned":
        return IndexTarget(folder, case, resign=True)
    if kind == "manifest":
        return ManifestTarget(folder, case, resign=True)
    if kind == "import":
        return ImportTarget(folder, case)
    if kind == "codec":
        return CodecTarget(folder)
    if kind == "packed":
        return packed_target
    if kind == "npy":
        arrays = sorted((FIXTURES / "index_v3" / "tartan-2" / "index").rglob("*.npy"))
        plaid = sorted((FIXTURES / "imports" / "fast-plaid-2" / "index").glob("*.npy"))
        return FileTarget(folder, arrays + plaid, lambda p: map_npy(p).sum(), ValueError)
    if kind == "torch":
        return FileTarget(folder, torch_files(), contents, checked=True)
    if kind == "corpus":
        (folder / "whole").mkdir()
        files = corpora(folder / "whole")
        return FileTarget(folder, files, lambda p: sum(1 for _ in read_corpus(p)))
    raise SystemExit(f"there is no target {name!r}")


TARGETS = {  # name → its share of the cases
    "packed": 8,
    "npy": 8,
    "torch": 8,
    "corpus": 8,
    "codec": 6,
    "manifest:index_v3/tartan-1": 2,
    "index:index_v3/tartan-2": 1,
    "index:index_v3/colbertv2-4": 1,
    "resigned:index_v3/tartan-2": 1,
    "resigned:index_v3/colbertv2-1": 1,
    "index:index_v4/changed": 1,
    "resigned:index_v4/changed": 2,
    "import:stanford-2": 1,
    "import:fast-plaid-2": 1,
    "import:fast-plaid-changed": 1,
}


def main(name: str, seed: int, cases: int) -> None:
    """Run cases of one target."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Broken("it hangs")))
    refused = 0
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        run = target(name, Path(folder))
        for case in range(cases):
            os.environ["FUZZ_CASE"] = str(case)
            signal.alarm(CASE_TIMEOUT_S)
            try:
                refused += not run(np.random.default_rng([seed, case]))
            except BaseException:
                print(f"{name} seed {seed} case {case}: broke the rules", flush=True)
                traceback.print_exc()
                sys.exit(3)
            finally:
                signal.alarm(0)
            if case % 50 == 0:
                print(f"at {case}", flush=True)
    print(f"{name}: {cases} cases, {refused} refused, {cases - refused} read", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
