"""Why a passage was found: for each query token, the passage token that it matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from colbert_core.index import ShardReader
from colbert_core.types import F32, TokenMatch


def explain(shard: ShardReader, Q_LD: F32, pid: int) -> tuple[TokenMatch, ...]:
    """The best passage token per query token, its score, and no text yet.

    Args:
        shard: the shard that holds the passage.
        Q_LD: the rotated query, float32 [L, D].
        pid: ordinal of the passage in the shard.
    """
    tokens_L, scores_L = shard.kernel.match(Q_LD, pid)
    return tuple(
        TokenMatch(str(index), index, int(token), float(score))
        for index, (token, score) in enumerate(zip(tokens_L, scores_L, strict=True))
    )


def shifted(spans: Sequence[tuple[int, int]], start: int) -> list[tuple[int, int]]:
    """Spans in a window as spans in its document; (-1, -1) stays."""
    return [(a + start, b + start) if a >= 0 else (a, b) for a, b in spans]


def with_text(
    matches: Sequence[TokenMatch],
    query_tokens: Sequence[str],
    spans: Sequence[tuple[int, int]],
) -> tuple[TokenMatch, ...]:
    """Matches with the query's tokens and the character spans in the passage filled in.

    Args:
        matches: from `explain`.
        query_tokens: display strings, one per query token.
        spans: character span of each stored passage token, (-1, -1) for markers.
    """
    named = []
    for match in matches:
        start, end = (-1, -1)
        if match.passage_token_index < len(spans):
            start, end = spans[match.passage_token_index]
        token = query_tokens[match.query_index]
        named.append(replace(match, query_token=token, start=start, end=end))
    return tuple(named)
