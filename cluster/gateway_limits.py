"""What a gateway refuses before any work: pure functions; errors say value, limit and remedy."""

from __future__ import annotations

from collections.abc import Callable

from cluster.wire.channels import DEFAULT_MAX_MESSAGE_BYTES
from cluster.wire.filters import MAX_CONDITIONS, MAX_VALUES
from cluster.wire.types import Limits, SearchCall
from colbert_core.errors import InvalidInput, QueryError
from colbert_core.filters import MAX_DEPTH, Filter, In
from colbert_core.search import check_query
from colbert_core.types import F32, MAX_K, MAX_QUERY_TOKENS, SearchParams

# Each is an id and a score, 8 bytes; half of a message is left for the query itself.
MAX_PROBES = DEFAULT_MAX_MESSAGE_BYTES // 2 // 8

DEFAULT_LIMITS = Limits(
    max_k=MAX_K,
    max_query_tokens=MAX_QUERY_TOKENS,
    max_text_chars=16_384,
    max_message_bytes=DEFAULT_MAX_MESSAGE_BYTES,
    max_batch=1024,
    max_filter_conditions=MAX_CONDITIONS,
    max_filter_values=MAX_VALUES,
    max_filter_depth=MAX_DEPTH,
)

# What cannot be raised beyond: the index, the messages between gateway and shards, protobuf.
_TOPS = {
    "max_k": MAX_K,
    "max_query_tokens": MAX_QUERY_TOKENS,
    "max_filter_conditions": MAX_CONDITIONS,
    "max_filter_values": MAX_VALUES,
    "max_filter_depth": MAX_DEPTH,
}


def check_limits(limits: Limits) -> None:
    """Raise InvalidInput where configured limits are below 1 or above what the index can do."""
    for name, top in _TOPS.items():
        value = getattr(limits, name)
        if not 1 <= value <= top:
            raise InvalidInput(f"{name} is {value}; give 1 to {top:,}")
    for name in ("max_text_chars", "max_message_bytes", "max_batch"):
        if getattr(limits, name) < 1:
            raise InvalidInput(f"{name} is {getattr(limits, name)}; give 1 or more")


def check_call(
    call: SearchCall, limits: Limits, derive: Callable[..., SearchParams]
) -> SearchParams:
    """Check what of a call can be without its vectors, and derive its parameters.

    Args:
        derive: `derive_params`, with the presets of the index.

    Raises:
        QueryError: naming what is wrong.
    """
    if not 1 <= call.k <= limits.max_k:
        raise QueryError(f"k is {call.k}: ask for 1 to {limits.max_k:,} hits")
    for name in ("candidates", "scored"):
        value = getattr(call, name)
        if value is not None and value > 2**31 - 1:
            raise QueryError(f"{name} is {value}: give at most {2**31 - 1:,}")
    if call.text is not None:
        _check_text(call.text, limits)
    elif call.language is not None:
        raise QueryError(
            f"language {call.language[:40]!r} says how text is read, and the query is vectors: "
            "leave it out"
        )
    return derive(
        call.k,
        recall=call.recall,
        nprobe=call.nprobe,
        candidates=call.candidates,
        scored=call.scored,
        exact=call.exact,
    )


def check_vectors(query_LD: F32, dim: int, limits: Limits) -> F32:
    """A query matrix that the index can be searched with, float32 [L, dim].

    Raises:
        QueryError: rows, dimensions or values are not possible.
    """
    rows = len(query_LD)
    if rows > limits.max_query_tokens:
        raise QueryError(
            f"the query has {rows:,} tokens and the limit is {limits.max_query_tokens:,}: send "
            "fewer vectors"
        )
    return check_query(query_LD, dim)


def check_probes(tokens: int, nprobe: int, centroids: int) -> None:
    """Refuse more probes than a shard server takes in one message, before they are computed.

    Raises:
        QueryError: naming the number that fits.
    """
    most = MAX_PROBES // tokens
    if min(nprobe, centroids) > most:
        raise QueryError(
            f"nprobe is {nprobe:,} for {tokens:,} query tokens and the limit is {most:,}: lower "
            "it, send fewer vectors, or set exact"
        )


def check_filter_size(wanted: Filter, limits: Limits) -> None:
    """Raise QueryError for a filter of more conditions, values or levels than the limits allow."""
    parts = list(wanted.walk())
    sizes = {
        "conditions": (len(parts), limits.max_filter_conditions),
        "values": (
            sum(len(part.values) for part in parts if isinstance(part, In)),
            limits.max_filter_values,
        ),
        "levels": (wanted.depth, limits.max_filter_depth),
    }
    for what, (count, most) in sizes.items():
        if count > most:
            raise QueryError(
                f"the filter has {count:,} {what} and the limit is {most:,}: ask for fewer, or "
                "keep in the metadata what they have in common"
            )


def check_batch(count: int, limits: Limits) -> None:
    """Raise QueryError for a batch that is empty or too long."""
    if not 1 <= count <= limits.max_batch:
        raise QueryError(
            f"the batch has {count:,} requests: send 1 to {limits.max_batch:,} at a time"
        )


def _check_text(text: str, limits: Limits) -> None:
    if not text.strip():
        raise QueryError("the query text is empty: send at least one word")
    if len(text) > limits.max_text_chars:
        raise QueryError(
            f"the query text has {len(text):,} characters and the limit is "
            f"{limits.max_text_chars:,}: send the part that says what to look for; more than the "
            "model's query length would be cut anyway"
        )
