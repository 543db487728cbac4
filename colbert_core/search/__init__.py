"""Searching: parameters, one process over all shards, and the merge that the gateway shares."""

from colbert_core.search.explain import explain, shifted, with_text
from colbert_core.search.matching import Matcher
from colbert_core.search.merge import Located, merge
from colbert_core.search.params import (
    COMMON_PRESETS,
    DEFAULT_RECALL,
    derive_params,
    deriving,
)
from colbert_core.search.query import check_query
from colbert_core.search.searcher import Searcher, search_shard

__all__ = [
    "COMMON_PRESETS",
    "DEFAULT_RECALL",
    "Located",
    "Matcher",
    "Searcher",
    "check_query",
    "derive_params",
    "deriving",
    "explain",
    "merge",
    "search_shard",
    "shifted",
    "with_text",
]
