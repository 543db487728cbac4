"""Reading a corpus: which files it is, and its passages in order, one at a time.

    for document in read_corpus("corpus.jsonl"):
        document.passage.id, document.passage.text, document.place

A corpus is a file, a glob, a folder, or a list of these, here or in a bucket (`s3://`, `gs://`):
what is in a bucket is streamed. Its order is the order of the sorted
paths and of the lines within them; it is what ties between equal scores are broken by, so it is
the same on every machine. Duplicate ids are `corpus_duplicates.py`'s to find: that needs the end.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from colbert_core.errors import CorpusError, InvalidInput, StorageError
from colbert_core.storage import Location, RemotePath, is_uri, location
from colbert_core.text.corpus_formats import known_suffixes, reader_for
from colbert_core.text.corpus_records import Document, Place, document_from_record, shown_id
from colbert_core.text.corpus_remote import remote_files

__all__ = ["Corpus", "Document", "Place", "corpus_files", "read_corpus", "shown_id"]

Corpus = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def corpus_files(corpus: Corpus) -> list[Location]:
    """The files that a corpus consists of, in reading order, each known to be readable.

    A folder is searched in depth for files of a known format; names that begin with "." or "_" are
    left out. A folder in BEIR's layout (a corpus beside queries) means its corpus alone.

    Raises:
        CorpusError: a path does not exist, cannot be read, has an unknown suffix, or nothing is
            found; a bucket is missing, or refuses.
        Unavailable: a bucket does not answer.
    """
    parts = [corpus] if isinstance(corpus, str | os.PathLike) else list(corpus)
    files = [path for part in parts for path in _expand(part)]
    if not files:
        raise CorpusError("the corpus names no file; give a file, a folder or a glob")
    for path in files:
        _check_readable(path)
    return files


def read_corpus(corpus: Corpus) -> Iterator[Document]:
    """Every passage of a corpus in order.

    Raises:
        CorpusError: something cannot be indexed; the message names file, line and id.
    """
    for path in corpus_files(corpus):
        yield from read_file(path)


def read_file(path: Location) -> Iterator[Document]:
    """Every passage of one file, in order.

    Raises:
        CorpusError: as `read_corpus`.
        Unavailable: a bucket stopped answering; names the line.
    """
    reader = reader_for(path)
    if reader is None:
        raise CorpusError(f"{path}: unknown format; known are {known_suffixes()}")
    for record, place in reader(path):
        yield document_from_record(record, place)


def _expand(named: str | os.PathLike[str]) -> list[Location]:
    try:
        place = location(named)
        if isinstance(place, RemotePath):
            return [*remote_files(place)]
    except (InvalidInput, StorageError) as error:
        raise CorpusError(str(error)) from error
    return [*_expand_local(str(place) if is_uri(named) else os.fspath(named))]


def _expand_local(part: str) -> list[Path]:
    path = Path(part).expanduser()
    if path.is_dir():
        return _files_of_folder(path)
    if path.exists() or not glob.has_magic(part):
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207
    if not found:
        raise CorpusError(f"{part}: the pattern matches no file; check it (and quote it)")
    return [file for match in found for file in _expand_match(match)]


def _expand_match(match: Path) -> list[Path]:
    return _files_of_folder(match) if match.is_dir() else [match]


def _files_of_folder(folder: Path) -> list[Path]:
    beir = sorted(folder.glob("corpus.jsonl*"))
    if beir and any(folder.glob("queries.*")):
        return beir[:1]
    found = []
    for parent, folders, names in os.walk(folder, onerror=_raise_unreadable):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith((".", "_")) and reader_for(Path(name)) is not None
        ]
    if not found:
        raise CorpusError(
            f"{folder}: no file of a known format in it; known are {known_suffixes()}"
        )
    return sorted(found)


def _raise_unreadable(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: it cannot be read: {error.strerror}") from error


def _check_readable(path: Location) -> None:
    if reader_for(path) is None:
        raise CorpusError(f"{path}: unknown format; known are {known_suffixes()}")
    if isinstance(path, RemotePath):
        return  # it was listed
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: there is no such file; check the path") from error
    except OSError as error:
        raise CorpusError(f"{path}: it cannot be read: {error.strerror}") from error
