"""Plain values of the two APIs: what conversions give and take; nothing else needs protobuf.

The first half is the public API (client and gateway), the second the gateway–shard API. Names and
meanings follow proto/tartan/v1/search.proto and proto/tartan/shard/v1/shard.proto, which say more.
Suffixes as in colbert_core/types.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from colbert_core.filters import Filter
from colbert_core.types import F32, I32, I64, Hit, SearchParams, ShardTopK

DEFAULT_K = 10


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SearchCall:
    """One query. Exactly one of `text` and `query_LD`; at most one way to say how hard to look.

    Attributes:
        text: encoded by the gateway.
        query_LD: float32 [L, D], token vectors of the caller's own encoder.
        recall: share of the exact top k to find, in (0, 1].
        nprobe, candidates, scored: raw parameters; each may be None and is then derived.
        exact: score every passage.
        filter: which passages may be found; None for all.
        allow_partial: give what answers there are where shards do not answer.
        language: of the text, where it is not the index's and the model has an adapter for each.
    """

    text: str | None = None
    query_LD: F32 | None = None
    k: int = DEFAULT_K
    recall: float | None = None
    nprobe: int | None = None
    candidates: int | None = None
    scored: int | None = None
    exact: bool = False
    with_text: bool = True
    with_metadata: bool = True
    explain: bool = False
    timings: bool = False
    filter: Filter | None = None
    allow_partial: bool = False
    language: str | None = None


@dataclass(frozen=True, slots=True)
class MissingShard:
    """A shard that is not in an answer, and what its servers did."""

    shard_id: str
    passages: int
    timed_out: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How complete an answer is; shards_asked = shards_ok + shards_failed + shards_timed_out."""

    shards_asked: int
    shards_ok: int
    shards_failed: int
    shards_timed_out: int
    passages_searched: int
    passages_total: int
    missing: tuple[MissingShard, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every shard answered."""
        return self.shards_ok == self.shards_asked


@dataclass(frozen=True, slots=True)
class ShardTiming:
    """One shard's part of a query: time as the gateway saw it and as the shard measured it."""

    shard_id: str
    elapsed_ms: float
    search_ms: float
    attempts: int
    touched: int
    scored: int


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What a search gives.

    Attributes:
        hits: best first; equal scores in the order of the corpus.
        params: what was done.
        coverage: how complete the answer is.
        generation: the generation of the index that answered.
        timings_ms: milliseconds by stage ("queue", "encode", "probe", "fan_out", "merge",
            "fetch", "explain", "total"); empty unless asked for.
        shard_timings: one per shard that answered, in the order of the index; empty unless asked
            for.
        cached: whether the gateway gave it from its cache; only known with timings.
    """

    hits: tuple[Hit, ...]
    params: SearchParams
    coverage: Coverage
    generation: str
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    shard_timings: tuple[ShardTiming, ...] = ()
    cached: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one request of a batch failed: a gRPC status code, a message, and the error's class."""

    code: int
    message: str
    error: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are held to; beyond it they are refused before any work."""

    max_k: int
    max_query_tokens: int
    max_text_chars: int
    max_message_bytes: int
    max_batch: int
    max_filter_conditions: int
    max_filter_values: int
    max_filter_depth: int


@dataclass(frozen=True, slots=True)
class ServedShard:
    """One shard of what is being served."""

    shard_id: str
    passages: int
    tokens: int
    replicas: int


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What a gateway serves. `model` is empty when the index was built from vectors; `fields` are
    the types of the metadata that passages can be filtered by; `server_time` is the gateway's
    clock, in seconds since 1970, and `version` its software."""

    generation: str
    passages: int
    tokens: int
    dim: int
    centroids: int
    codec: str
    bits: int
    model: str
    shards: tuple[ServedShard, ...]
    limits: Limits
    fields: Mapping[str, str] = field(default_factory=dict)
    server_time: float = 0.0
    version: str = ""


@dataclass(frozen=True, slots=True)
class Along:
    """Which of the passages that a shard finds it sends along: the best so many, and with what."""

    passages: int
    with_text: bool
    with_metadata: bool


@dataclass(frozen=True, slots=True, eq=False)
class ShardQuery:
    """One query as every shard gets it.

    Attributes:
        generation: what must be searched; a shard that holds another refuses.
        query_LD: float32 [L, D], in the codec's rotated space.
        probe_ids_LP: int32 [L, P], best centroid first; None when `exact`.
        probe_scores_LP: float32 [L, P]; None when `exact`.
        scored, margin, missed, spread: as in `SearchParams`.
        filter: which passages may be found; None for all.
        along: which passages to send along; None for none.
    """

    generation: str
    query_LD: F32
    probe_ids_LP: I32 | None
    probe_scores_LP: F32 | None
    k: int
    candidates: int
    scored: int
    exact: bool = False
    margin: float | None = None
    missed: float | None = None
    spread: float = 0.0
    filter: Filter | None = None
    along: Along | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FetchQuery:
    """Which passages of one shard to return, and with what.

    Attributes:
        pids_M: int64 [M], ordinals within the shard.
        query_LD: float32 [L, D], rotated; None unless token matches are wanted.
    """

    generation: str
    pids_M: I64
    with_text: bool
    with_metadata: bool
    query_LD: F32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StoredPassage:
    """One passage as a shard stores it.

    Attributes:
        text: None if not asked for or not stored.
        metadata_json: a JSON object; empty if not asked for.
        match_tokens_L: int32 [L], the passage token that each query token matched, or None.
        match_scores_L: float32 [L].
        window: of a document in windows, the characters that the passage covers.
    """

    id: str
    text: str | None
    metadata_json: str
    match_tokens_L: I32 | None = None
    match_scores_L: F32 | None = None
    window: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ShardAnswer:
    """One shard's best passages, its time in the kernel, and what it sent along of the first."""

    top: ShardTopK
    search_ms: float
    passages: tuple[StoredPassage, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardIdentity:
    """What a shard server holds."""

    generation: str
    shard_id: str
    passages: int
    tokens: int
    dim: int
    kernels: str
