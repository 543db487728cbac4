"""Vectors in, hits out: the library in one class.

    index = Index.build("notes.tartan", embeddings, ids=ids, texts=texts)
    index = Index.open("notes.tartan")
    hits = index.search(query_matrix, k=10)

Works with the token vectors of any late-interaction model. Where the index was built from text
(`tartan index build`), `search` takes a query's text as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from colbert_core.build import OnProgress, Settings, build_from_vectors
from colbert_core.change import add_passages, compact_index, delete_passages
from colbert_core.drift import drift
from colbert_core.errors import QueryError
from colbert_core.filters import FilterLike, as_filter
from colbert_core.hardware import searches_at_once
from colbert_core.hits import Hits
from colbert_core.index import (
    Generation,
    Manifest,
    StoredRow,
    check_remote_place,
    describe,
    number_after,
    open_generation,
    push,
)
from colbert_core.recalibrate import calibrate_index
from colbert_core.search import (
    Searcher,
    check_query,
    deriving,
    explain,
    shifted,
    with_text,
)
from colbert_core.storage import location
from colbert_core.types import F32, U8, AnyArray, SearchParams, TokenMatch

if TYPE_CHECKING:
    from colbert_core.text import Encoder

Query = AnyArray | str


class Index:
    """One open generation of an index; immutable, safe to share between threads."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._searcher = Searcher(generation)
        self._derive = deriving(generation.manifest.presets)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        device: str = "cpu",
        on_fetch: Callable[[int, int], None] | None = None,
        in_memory: bool | None = None,
    ) -> Index:
        """Open the live generation of an index.

        Args:
            path: its folder, or its URI (file://, s3://, gs://): what lies in a bucket is fetched
                into the local cache first, and verified (docs/storage.md).
            device: where to search: "cpu", or "cuda" (or "cuda:1", …) for a GPU, which the shards
                are copied to. It answers alike, but many queries at a time: `search_many`, or
                `search` from several threads.
            on_fetch: called with the bytes fetched and wanted, of one folder after another.
            in_memory: whether to copy what is searched on the CPU into memory now, on large pages:
                a query then takes a fraction of the time. None does where that takes no more
                than half of the memory that is available. False maps the files, so that opening
                costs the same whatever their size: for a single query, or a look.

        Raises:
            InvalidInput: there is no such device here, or the shards do not fit on it, or in
                memory.
            IndexMissing: there is no index at `path`.
            IndexCorrupt: a file is missing, truncated or altered.
            StorageError, Unavailable: a bucket refuses, or does not answer.
        """
        place = location(path)
        return cls(open_generation(place, device=device, in_memory=in_memory, on_fetch=on_fetch))

    @classmethod
    def build(
        cls,
        path: str | os.PathLike[str],
        embeddings: Iterable[AnyArray] | AnyArray,
        ids: Sequence[str] | None = None,
        bits: int = 2,
        codec: str = "tartan",
        *,
        doclens: Sequence[int] | AnyArray | None = None,
        texts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        centroids: int | None = None,
        shards: int = 1,
        seed: int = 0,
        normalize: bool = False,
        overwrite: bool = False,
        pool_factor: int = 1,
        on_progress: OnProgress | None = None,
    ) -> Index:
        """Compress token vectors into an index, publish it, and open it.

        Args:
            path: folder of the index, made where it is missing; or a URI in a bucket.
            embeddings: for each passage a float array [tokens, dim] of unit vectors; dim is a
                multiple of 8 up to 1,024. An iterator is spooled to disk; anything that can be
                iterated again is read in place. With `doclens`, one array [all tokens, dim], which
                may be memory-mapped.
            ids: unique strings, one a passage; "0", "1", … by default.
            bits: residual bits per dimension, 1 to 4.
            codec: "tartan", or "colbertv2" for the paper's.
            doclens: the tokens of each passage, where `embeddings` is one array of all of them.
            texts: stored and returned with hits.
            metadata: JSON objects, stored and returned with hits.
            centroids: how many; 2^⌊log2(16·√tokens)⌋ by default.
            shards: how many shards to cut the index into.
            seed: the same vectors and seed give the same index.
            normalize: scale every vector to unit length instead of refusing those that are not.
            overwrite: publish a new generation where an index exists.
            pool_factor: keep a passage's tokens in so many times fewer vectors
                (`colbert_core.pooling`); 1 keeps each.
            on_progress: called with (stage, done, total).

        Raises:
            InvalidInput: a setting is out of range (`CorpusError`: a passage is unusable).
            IndexExists: there is an index at `path`, and `overwrite` is false.
            StorageError, Unavailable: a bucket refuses, or does not answer.
        """
        settings = Settings(bits, codec, centroids, shards, seed, normalize, overwrite, pool_factor)
        columns = (embeddings, doclens, ids, texts, metadata, settings, on_progress)
        place = location(path)
        if isinstance(place, Path):
            build_from_vectors(place, *columns)
        else:
            check_remote_place(place, overwrite=overwrite)
            with TemporaryDirectory(prefix="tartan-build-") as folder:
                number_after(local := Path(folder, "index"), place)
                build_from_vectors(local, *columns)
                push(local, place, overwrite=overwrite)
        return cls.open(path)

    def add(
        self,
        embeddings: Iterable[AnyArray] | AnyArray,
        ids: Sequence[str],
        texts: Sequence[str] | None = None,
        metadata: Sequence[Mapping[str, Any]] | None = None,
        replace: bool = False,
        *,
        doclens: Sequence[int] | AnyArray | None = None,
        normalize: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Index:
        """Add passages behind those that are there, publish that as a generation, and open it.

        This object goes on with its own generation. What is changed is the live one, which another
        writer may have published since this one was opened. `drift` tells how well the index's
        centroids fit what was added.

        Args:
            embeddings, doclens, normalize, texts, metadata, on_progress: as `build` takes them,
                with as many dimensions as the index has.
            ids: unique strings, one a passage.
            replace: whether passages of these ids that are there are replaced, text and metadata
                included; the new ones stand behind all others.

        Raises:
            InvalidInput: the vectors do not fit the index (`CorpusError`: a passage is unusable,
                or its id is there and not to be replaced). Nothing was added.
            IndexExists: another writer is at work in this index.
        """
        add_passages(
            self._generation.path,
            embeddings,
            ids,
            doclens=doclens,
            texts=texts,
            metadata=metadata,
            replace=replace,
            normalize=normalize,
            on_progress=on_progress,
        )
        return self._reopened()

    def delete(self, ids: Iterable[str], *, missing_ok: bool = False) -> Index:
        """Delete passages by id, publish what is left as a generation, and open it.

        No other passage changes its place. The bytes of deleted ones go with `compact`.

        Args:
            ids: of live passages.
            missing_ok: whether ids that are not there are passed over.

        Raises:
            InvalidInput: an id is not in the index. Nothing was deleted.
            IndexExists: another writer is at work in this index.
        """
        delete_passages(self._generation.path, ids, missing_ok=missing_ok)
        return self._reopened()

    def compact(self, shards: int | None = None) -> Index:
        """Merge what was added into the shards, drop what was deleted, publish that, and open it.

        Nothing is decoded, and no id or order changes. Other writers are refused meanwhile; readers
        go on. The files of older generations stay until `colbert_core.generations.collect`.

        Args:
            shards: how many to make; by default as many as there were before passages were added.

        Raises:
            InvalidInput: nothing is left of the index, or `shards` is out of its range.
            IndexExists: another writer is at work in this index.
        """
        compact_index(self._generation.path, shards)
        return self._reopened()

    def calibrate(
        self,
        queries: Sequence[Query],
        language: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Index:
        """Measure with real queries what each recall takes, publish that, and open it.

        The presets that a build measures come of queries made from passages. Nothing but them
        changes. `add` and `delete` keep them; `compact` measures anew without queries.

        Args:
            queries: 50 at least, and better some hundreds, of the kind that will be asked; of more
                than 512 a sample is taken.
            language: of the queries, as of `search`.
            on_progress: called with (stage, done, total).

        Raises:
            InvalidInput: there are too few queries, or too few passages.
            QueryError: a query cannot be searched.
            IndexExists: another writer is at work in this index.
        """
        encode = partial(self.encode_query, language=language)
        calibrate_index(self._generation.path, queries, encode, on_progress)
        return self._reopened()

    def _reopened(self) -> Index:
        """What is live now, searched where this index is."""
        mapped = not any(shard.copied_bytes for shard in self._generation.shards)
        in_memory = False if mapped else None
        return Index.open(self._generation.path, self._generation.device, in_memory=in_memory)

    @property
    def drift(self) -> float | None:
        """Mean residual of the tokens that were added, over that of those that the index was built
        of; None where nothing was added. Above `colbert_core.drift.REBUILD_ABOVE`, build anew."""
        return drift(self.manifest.extras)

    @property
    def manifest(self) -> Manifest:
        """What the open generation consists of."""
        return self._generation.manifest

    @property
    def generation(self) -> Generation:
        """The open generation: codec and shards."""
        return self._generation

    @property
    def dim(self) -> int:
        """Dimensions of a token vector."""
        return self._generation.codec.dim

    def __len__(self) -> int:
        return self.manifest.documents

    def __repr__(self) -> str:
        about = describe(self.manifest)
        return (
            f"Index({str(self._generation.path)!r}, {about['passages']:,} passages, "
            f"{about['codec']} {about['bits']} bits, {about['bytes_per_token']} bytes a token)"
        )

    @property
    def fields(self) -> dict[str, str]:
        """The metadata that passages can be filtered by: name → type."""
        return self.manifest.metadata_fields

    def params(
        self,
        k: int = 10,
        recall: float | None = None,
        *,
        nprobe: int | None = None,
        candidates: int | None = None,
        scored: int | None = None,
        exact: bool = False,
    ) -> SearchParams:
        """What a search with these arguments does: `recall` by what was measured on this index.

        Raises:
            QueryError: a value is out of its range.
        """
        return self._derive(
            k, recall=recall, nprobe=nprobe, candidates=candidates, scored=scored, exact=exact
        )

    def search(
        self,
        query: Query,
        k: int = 10,
        recall: float | None = None,
        filter: FilterLike | None = None,
        *,
        nprobe: int | None = None,
        candidates: int | None = None,
        scored: int | None = None,
        exact: bool = False,
        explain: bool = False,
        timeout_s: float | None = None,
        language: str | None = None,
    ) -> Hits:
        """The best passages for a query, best first; ties in the order of the corpus.

        Args:
            query: a float array [query tokens, dim], or text where the index knows its model.
            k: hits asked for; the answer has min(k, passages that the filter allows) of them.
            recall: share of the exact top k to find; 0.99 by default, 1 for an exact search.
            filter: which passages to search among: a string, such as
                `year >= 2019 and lang in ("de", "en")` (docs/filters.md), the same as an expression
                (`colbert_core.filters`), or a collection of ids. None is all, an empty collection
                none. Few that are left are scored exactly.
            nprobe: centroids probed per query token, instead of what `recall` chooses.
            candidates: passages compared by their centroids per shard, instead of what `recall`
                chooses.
            scored: passages scored precisely per shard, the best of those; 0 leaves ranking and
                scores to the centroids, which is coarse and, for a large k, several times as fast.
            exact: score every passage.
            explain: give for each query token the passage token that it matched.
            timeout_s: give up after so many seconds.
            language: the query's, where the model has an adapter for each language and it is not
                the index's.

        Raises:
            QueryError: the query, a parameter or the filter cannot be searched.
            TimeoutError: the time is over.
        """
        params = self.params(
            k, recall, nprobe=nprobe, candidates=candidates, scored=scored, exact=exact
        )
        allowed = self._searcher.allowed(None if filter is None else as_filter(filter))
        return self._search(query, params, allowed, explain, timeout_s, language)

    def search_many(
        self,
        queries: Sequence[Query],
        k: int = 10,
        recall: float | None = None,
        filter: FilterLike | None = None,
        *,
        nprobe: int | None = None,
        candidates: int | None = None,
        scored: int | None = None,
        exact: bool = False,
        threads: int | None = None,
        language: str | None = None,
    ) -> list[Hits]:
        """`search` for many queries, in parallel over queries; answers in the same order."""
        params = self.params(
            k, recall, nprobe=nprobe, candidates=candidates, scored=scored, exact=exact
        )
        allowed = self._searcher.allowed(None if filter is None else as_filter(filter))
        with ThreadPoolExecutor(threads or searches_at_once(self._generation.device)) as pool:
            return list(
                pool.map(lambda q: self._search(q, params, allowed, False, None, language), queries)
            )

    @cached_property
    def encoder(self) -> Encoder:
        """The model that the index was built with, loaded at the first use.

        Raises:
            QueryError: the index was built from vectors and knows no model.
            ModelError: the model cannot be loaded.
            ModelMismatch: the model that was found is another one than the index was built with.
        """
        from colbert_core.text import Encoder

        if self._generation.model is None:
            raise QueryError(
                "this index was built from vectors and knows no model: search it with a matrix "
                f"[query tokens, {self.dim}]"
            )
        return Encoder.for_index(self._generation.model, self._generation.projection)

    def encode_query(self, query: Query, language: str | None = None) -> F32:
        """A checked query matrix, float32 [L, D], from text (in a language) or from a matrix."""
        if isinstance(query, str):
            if not query.strip():
                raise QueryError("the query is empty; give at least one word")
            encoder = self.encoder if language is None else self.encoder.in_language(language)
            query = encoder.encode_queries([query])[0]
        elif language is not None:
            raise QueryError(
                f"language {language!r} says how text is read, and the query is a matrix: leave "
                "it out"
            )
        return check_query(query, self.dim)

    def _search(
        self,
        query: Query,
        params: SearchParams,
        allowed: list[U8] | None,
        explain: bool,
        timeout_s: float | None,
        language: str | None,
    ) -> Hits:
        Q_LD = self.encode_query(query, language)
        found = self._searcher.search(Q_LD, params, allowed, timeout_s)
        return Hits(
            self._generation.shards,
            found,
            partial(self._explain, query, Q_LD) if explain else None,
        )

    def _explain(
        self, query: Query, Q_LD: F32, shard_index: int, pid: int, row: StoredRow
    ) -> tuple[TokenMatch, ...]:
        rotated_LD = self._generation.codec.rotate(Q_LD)
        matches = explain(self._generation.shards[shard_index], rotated_LD, pid)
        if not isinstance(query, str):
            return matches
        # Which text a pooled vector stands for is not stored.
        pooled = self.manifest.pool_factor > 1
        spans = [] if pooled else self.encoder.passage_spans(row.window_text)
        start = row.window[0] if row.window else 0
        return with_text(matches, self.encoder.query_tokens(query), shifted(spans, start))
