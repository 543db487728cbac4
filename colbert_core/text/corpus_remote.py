"""Which objects of a bucket a corpus consists of: as a file, a pattern or a folder is locally."""

from __future__ import annotations

import glob

from colbert_core.errors import CorpusError
from colbert_core.storage import RemotePath, corpus_matches, store_of
from colbert_core.text.corpus_formats import known_suffixes, reader_for


def remote_files(place: RemotePath) -> list[RemotePath]:
    """The objects that a place names, in reading order.

    Raises:
        CorpusError: nothing is found there.
        StorageError, Unavailable: the bucket is missing or refuses, or does not answer.
    """
    if reader_for(place) is not None and place.exists():
        return [place]
    inside = _files_of_folder(place)
    if inside:
        return inside
    if not glob.has_magic(place.key):
        raise CorpusError(
            f"{place}: there is no such object, and no file of a known format below it; known are "
            f"{known_suffixes()}"
        )
    found = corpus_matches(place)
    if not found:
        raise CorpusError(f"{place}: the pattern matches no object; check it (and quote it)")
    return found


def _files_of_folder(folder: RemotePath) -> list[RemotePath]:
    """Objects of a known format below a prefix; of a folder in BEIR's layout, its corpus."""
    prefix = f"{folder.key}/" if folder.key else ""
    keys = [item.key for item in store_of(folder).objects(prefix)]
    below = {key.removeprefix(prefix): key for key in sorted(keys)}
    beir = [key for name, key in below.items() if _is_named(name, "corpus.jsonl")]
    if beir and any(_is_named(name, "queries.") for name in below):
        return [RemotePath(folder.scheme, folder.bucket, beir[0])]
    return [
        path
        for name, key in below.items()
        if not any(part.startswith((".", "_")) for part in name.split("/"))
        and reader_for(path := RemotePath(folder.scheme, folder.bucket, key)) is not None
    ]


def _is_named(name: str, start: str) -> bool:
    return "/" not in name and name.startswith(start)
