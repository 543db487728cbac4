"""Why a hit scored so: for each query token, which passage token it matched, and where."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.gateway_encoder import LazyEncoder
from cluster.wire.types import StoredPassage
from colbert_core.search import shifted
from colbert_core.types import TokenMatch

NO_SPAN = (-1, -1)


def token_matches(
    passage: StoredPassage, tokens: Sequence[str], encoder: LazyEncoder | None
) -> tuple[TokenMatch, ...]:
    """The matches of one passage. Runs in a thread.

    Args:
        passage: with its text, and the matches that its shard found.
        tokens: what to show for each row of the query; empty where it was vectors.
        encoder: says which characters a stored token stands for; None where that is not known.
    """
    tokens_L, scores_L = passage.match_tokens_L, passage.match_scores_L
    if tokens_L is None or scores_L is None:
        return ()
    spans: Sequence[tuple[int, int]] = ()
    if passage.text and encoder is not None:
        start, end = passage.window or (0, len(passage.text))
        spans = shifted(encoder.get().passage_spans(passage.text[start:end]), start)
    return tuple(
        TokenMatch(
            tokens[row] if tokens else str(row),
            row,
            int(token),
            float(score),
            *(spans[token] if token < len(spans) else NO_SPAN),
        )
        for row, (token, score) in enumerate(zip(tokens_L, scores_L, strict=True))
    )
