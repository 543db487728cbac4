"""The file formats of a corpus, each as a stream of (record, place).

    .jsonl .ndjson .json   one JSON object per line
    .tsv                   `id <tab> text`; more columns with a header line that names them
    .parquet               columns instead of keys
    .gz .zst .bz2 .xz      after any of the text formats

Text is read line by line with a bound on the length of a line, Parquet in small batches, so that
memory does not grow with the file. Every failure is a `CorpusError` that names file and line.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from colbert_core.errors import CorpusError, StorageError, Unavailable
from colbert_core.storage import Location, RemotePath, read_copy
from colbert_core.text.corpus_records import Place

MAX_LINE_BYTES = 64 * 2**20
PARQUET_BATCH_ROWS = 256
_BOM = b"\xef\xbb\xbf"
_TSV_NAMES = {"_id", "id", "text", "title"}

Record = tuple[object, Place]


def known_suffixes() -> str:
    """The suffixes of `reader_for`, for messages."""
    texts = ", ".join(sorted(_TEXT_READERS))
    return f"{texts} (also with {', '.join(sorted(_OPENERS))}) and .parquet"


def reader_for(path: Location) -> Callable[[Location], Iterator[Record]] | None:
    """The reader of a file by its suffixes, or None where no reader knows them."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".parquet":
        return _read_parquet
    if suffixes and suffixes[-1] in _OPENERS:
        suffixes.pop()
    return _TEXT_READERS.get(suffixes[-1]) if suffixes else None


def _read_jsonl(path: Location) -> Iterator[Record]:
    for line, place in read_lines(path):
        if not line.strip():
            continue
        try:
            yield orjson.loads(line), place
        except orjson.JSONDecodeError as error:
            raise _broken_json(line, place, error) from error


def _broken_json(line: bytes, place: Place, error: orjson.JSONDecodeError) -> CorpusError:
    _decode(line, place)  # invalid UTF-8 has an error, and a remedy, of its own
    hint = "every line must be one complete JSON object"
    if line.lstrip()[:1] == b"[" and place.line == 1:
        hint = "this looks like one JSON array; write one object per line instead"
    return CorpusError(f"{place}: broken JSON at column {error.colno}: {error.msg}; {hint}")


def _read_tsv(path: Location) -> Iterator[Record]:
    names = ["id", "text"]
    for line, place in read_lines(path):
        cells = _decode(line, place).rstrip("\r\n").split("\t")
        if place.line == 1 and len(set(cells) & _TSV_NAMES) >= 2 and "text" in cells:
            names = cells
            continue
        if cells == [""]:
            continue
        if len(cells) != len(names):
            raise CorpusError(
                f"{place}: {len(cells)} tab-separated columns where {len(names)} are expected "
                f"({', '.join(names)}); a header line can name more columns, and a text that "
                "holds tabs needs JSONL"
            )
        yield dict(zip(names, cells, strict=True)), place


def _read_parquet(path: Location) -> Iterator[Record]:
    row = 0
    try:
        with _on_disk(path) as local, pq.ParquetFile(local) as table:
            for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
                for record in _rows(batch, path, row):
                    row += 1
                    yield record, Place(str(path), row)
    # The last three are what damaged column names, times and zones end in.
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        raise CorpusError(
            f"{path}: it cannot be read as Parquet after row {row}: {error}; write it again, or "
            "check that the file is complete"
        ) from error


@contextmanager
def _on_disk(path: Location) -> Iterator[Path]:
    """Parquet is read from its end: a remote file is copied whole first."""
    if isinstance(path, Path):
        yield path
        return
    try:
        with read_copy(path) as copy:
            yield copy
    except StorageError as error:
        raise CorpusError(str(error)) from error


def _rows(batch: Any, path: Location, first_row: int) -> list[dict[str, Any]]:
    try:
        return cast("list[dict[str, Any]]", batch.to_pylist())
    except UnicodeDecodeError as error:
        bad = next(i for i in range(batch.num_rows) if not _is_utf8(batch.slice(i, 1)))
        raise CorpusError(
            f"{Place(str(path), first_row + bad + 1)}: invalid UTF-8 ({error.reason}); "
            "convert the column to UTF-8"
        ) from error


def _is_utf8(batch: Any) -> bool:
    try:
        batch.to_pylist()
    except UnicodeDecodeError:
        return False
    return True


def read_lines(path: Location) -> Iterator[tuple[bytes, Place]]:
    """Raw lines with their places, through whatever compression the suffix names.

    Raises:
        CorpusError: a line is too long, or the file cannot be read to its end.
        Unavailable: a bucket stopped answering.
    """
    number = 0
    try:
        with _OPENERS.get(path.suffix.lower(), _open_plain)(path) as stream:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise CorpusError(
                        f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; "
                        "write one passage per line"
                    )
                yield line.removeprefix(_BOM) if number == 1 else line, Place(str(path), number)
    except Unavailable as error:
        raise Unavailable(f"{path}: reading stopped after line {number}: {error}") from error
    except (EOFError, zlib.error, lzma.LZMAError, OSError, StorageError) as error:
        raise CorpusError(
            f"{path}: it cannot be read after line {number}: {error}; check that the file is "
            "complete and readable"
        ) from error


def _decode(line: bytes, place: Place) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{place}: invalid UTF-8 at byte {error.start + 1} of the line ({error.reason}); "
            "convert the file to UTF-8, for example with iconv"
        ) from error


def _open_plain(path: Location) -> IO[bytes]:
    return path.open("rb")


def _open_gzip(path: Location) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(_source(path), "rb"))


def _open_zstd(path: Location) -> IO[bytes]:
    # pyarrow brings zstd along; its stream has no readline, a Python buffer around it has.
    source = path.open("rb") if isinstance(path, RemotePath) else str(path)
    return cast("IO[bytes]", _Buffered(pa.input_stream(source, compression="zstd")))


def _open_bz2(path: Location) -> IO[bytes]:
    return cast("IO[bytes]", bz2.open(_source(path), "rb"))


def _open_xz(path: Location) -> IO[bytes]:
    return cast("IO[bytes]", lzma.open(_source(path), "rb"))


def _source(path: Location) -> Any:
    """What the openers take: a path, or a stream of a remote file."""
    return path.open("rb") if isinstance(path, RemotePath) else path


class _Buffered:
    """`readline` with a limit over a pyarrow stream."""

    CHUNK = 1 << 20

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = b""

    def readline(self, limit: int) -> bytes:
        pieces = [self._rest]
        length = len(self._rest)
        while b"\n" not in pieces[-1] and length < limit:
            piece = self._stream.read(self.CHUNK)
            if not piece:
                break
            pieces.append(piece)
            length += len(piece)
        data = b"".join(pieces)
        end = data.find(b"\n") + 1 or len(data)
        end = min(end, limit)
        self._rest = data[end:]
        return data[:end]

    def __enter__(self) -> _Buffered:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()


_OPENERS: dict[str, Callable[[Location], IO[bytes]]] = {
    ".gz": _open_gzip,
    ".zst": _open_zstd,
    ".bz2": _open_bz2,
    ".xz": _open_xz,
}
_TEXT_READERS: dict[str, Callable[[Location], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_jsonl,
    ".tsv": _read_tsv,
}
