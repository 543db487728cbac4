"""What an index of a given size takes, before a machine is paid for: formulas, line by line.

Every line names its formula; docs/capacity.md explains them, compares them with indexes that were
measured, and says which rates are measured and on what. Nothing here touches a disk or a cluster.

N passages, T tokens, D dimensions, b bits, C centroids, S shards, R replicas, P probes a query
token, L query tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from cluster.plan import SHARD_BYTES
from colbert_core.codec.kmeans import default_centroids
from colbert_core.errors import InvalidInput
from colbert_core.reference.contexts import context_bytes

GIB = 2**30
MAX_PASSAGES, MAX_TOKENS_PER_PASSAGE = 10**12, 100_000

# Measured once each on one core of a Xeon (Sapphire Rapids); docs/capacity.md has the sources.
ENCODED_TOKENS_S = 11_400  # all-MiniLM-L6-v2 in bf16, passages of 180 tokens
NEAREST_PRODUCTS_S = 1.4e12  # int8 multiply-adds of vectors with centroids
QUANTISED_TOKENS_S = 2.5e6
WRITTEN_TOKENS_S = 7.5e6
PROBE_S = 15e-9  # a centroid of 128 dimensions, up to 16 query tokens, 32 probes
POSTING_S = 3.8e-9
INTERACTION_S = 1.9e-9  # a token of a passage that is compared by centroids
PRECISE_S = 22e-9  # a token of a passage that is scored precisely
CALL_S = 0.5e-3  # of a shard over gRPC: messages, and Python on both sides
POSTINGS_PER_TOKEN = 0.75  # a word that comes back in a passage often keeps its centroid

# What a search does at the default recall, k = 10, as presets of real indexes have it.
PROBES, COMPARED, SCORED = 32, 512, 80
ID_BYTES = 16
BUSY = 0.5  # share of a core that queries may take, so that queues stay short
MANY_CENTROIDS = 1 << 20
FILLED = 0.8  # share of a machine's memory that shards may take


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked for; the rest has defaults that `tartan plan --help` explains."""

    passages: int
    tokens_per_passage: float
    bits: int = 2
    target_qps: float = 10.0
    dim: int = 128
    query_tokens: int = 16
    replicas: int = 1
    centroids: int | None = None
    text_bytes: float | None = None
    machine_memory: int = 64 * GIB
    machine_cores: int = 16
    index_cores: int = 64
    encode_rate: float = ENCODED_TOKENS_S

    def check(self) -> None:
        """Raise `InvalidInput` where a value makes no sense."""
        limits: tuple[tuple[str, float, float, float], ...] = (
            ("--passages", self.passages, 1, MAX_PASSAGES),
            ("--tokens-per-passage", self.tokens_per_passage, 1, MAX_TOKENS_PER_PASSAGE),
            ("--bits", self.bits, 1, 4),
            ("--target-qps", self.target_qps, 0.001, 1e7),
            ("--dim", self.dim, 8, 1024),
            ("--query-tokens", self.query_tokens, 1, 1024),
            ("--replicas", self.replicas, 1, 1000),
            ("--machine-memory", self.machine_memory / GIB, 1, 1e6),
            ("--machine-cores", self.machine_cores, 1, 10_000),
            ("--index-cores", self.index_cores, 1, 10**7),
            ("--encode-rate", self.encode_rate, 1, 1e9),
        )
        for name, value, least, most in limits:
            if not least <= value <= most:
                raise InvalidInput(f"{name} is {value:g}; give {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of a plan: its value in `unit`, and the formula that it comes from."""

    name: str
    value: float
    unit: str
    formula: str


@dataclass(slots=True)
class Plan:
    """The figures, in the order in which each uses those before it; and what to beware of."""

    lines: list[Line] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, formula: str) -> float:
        """Append a line; its value."""
        self.lines.append(Line(name, value, unit, formula))
        return value

    def __getitem__(self, name: str) -> float:
        return next(line.value for line in self.lines if line.name == name)


def plan_capacity(work: Workload) -> Plan:
    """Bytes, shards, memory, machines and hours of a workload.

    Raises:
        InvalidInput: a value is out of its range.
    """
    work.check()
    plan = Plan()
    _sizes(work, plan)
    _search(work, plan)
    _machines(work, plan)
    _build(work, plan)
    plan.warnings.extend(_warnings(work, plan))
    return plan


def _sizes(work: Workload, plan: Plan) -> None:
    """Tokens, centroids, bytes and shards: the formula of `colbert_core/index/inspect.py`."""
    per_passage = work.tokens_per_passage
    tokens = plan.add("tokens", work.passages * per_passage, "", "T = N · tokens a passage")
    centroids = plan.add(
        "centroids",
        work.centroids or default_centroids(int(tokens)),
        "",
        "C = 2^⌊log2(16·√T)⌋, or --centroids",
    )
    code_bits = math.ceil(math.log2(max(2, centroids)))
    compressed = tokens * (work.dim * work.bits + code_bits + 8) / 8
    shards = plan.add(
        "shards",
        max(1, math.ceil(compressed / SHARD_BYTES)),
        "",
        "S = ⌈T · (D·b + ⌈log2 C⌉ + 8)/8 / 8 GiB⌉",
    )
    count = POSTINGS_PER_TOKEN * tokens
    bits = 2 + max(0.0, math.log2(work.passages * min(centroids, count) / count))
    lists = count * bits / 8 + shards * centroids * math.log2(2 + count * bits / 8 / shards) / 8
    passages = work.passages * (math.log2(1 + tokens / shards) / 8 + ID_BYTES)
    contexts = work.passages * context_bytes(work.dim, work.bits)
    table = plan.add(
        "centroid table", centroids * (work.dim + 4), "bytes", "C · (D + 4), in every process"
    )
    index = plan.add(
        "index",
        compressed + contexts + lists + passages + table,
        "bytes",
        f"T · (D·b + ⌈log2 C⌉ + 8)/8 + N · (D·b/8 + 4) + E · (2 + log2(N·C/E))/8, "
        f"E = {POSTINGS_PER_TOKEN:g}·T postings, + S·C offsets + N · ({ID_BYTES} of id + offset) "
        "+ table",
    )
    plan.add("index per token", index / tokens, "bytes", "index / T")
    plan.add("fp16 vectors", 2 * work.dim * tokens, "bytes", "2·D·T, for comparison")
    texts = work.passages * (5 * per_passage if work.text_bytes is None else work.text_bytes)
    plan.add("stored texts", texts, "bytes", "N · 5 bytes a token, or N · --text-bytes")


def _search(work: Workload, plan: Plan) -> None:
    """What a query takes, in core-milliseconds, if all that it touches lies in memory."""
    shards, centroids = plan["shards"], plan["centroids"]
    lanes = math.ceil(work.query_tokens / 16)
    gateway = plan.add(
        "query at the gateway",
        1e3 * PROBE_S * centroids * lanes * work.dim / 128,
        "core-ms",
        "C · 15 ns · ⌈L/16⌉ · D/128, without encoding its text",
    )
    list_length = POSTINGS_PER_TOKEN * plan["tokens"] / shards / centroids
    touched = PROBES * work.query_tokens * list_length * POSTING_S
    compared = COMPARED * work.tokens_per_passage * INTERACTION_S
    scored = SCORED * work.tokens_per_passage * PRECISE_S * lanes * work.dim / 128
    shard = plan.add(
        "query at a shard",
        1e3 * (CALL_S + touched + compared + scored),
        "core-ms",
        f".5 ms + {PROBES}·L · E/(S·C) · 3.8 ns + {COMPARED} passages · 1.9 ns a token "
        f"+ {SCORED} · 22 ns a token",
    )
    plan.add("query in all", gateway + shards * shard, "core-ms", "gateway + S · shard")


def _machines(work: Workload, plan: Plan) -> None:
    """How many machines hold the shards, and answer the queries."""
    shards = plan["shards"]
    per_shard = (plan["index"] - plan["centroid table"]) / shards + plan["centroid table"]
    plan.add("memory of a shard server", per_shard, "bytes", "(index − table)/S + table")
    gateway = plan["centroid table"] + plan["centroids"] * 64 * 8
    plan.add("memory of a gateway", gateway, "bytes", "table + 8 queries' centroid scores · 64·C")
    held = math.floor(FILLED * work.machine_memory / per_shard)
    by_memory = plan.add(
        "machines, by memory",
        math.ceil(shards * work.replicas / held) if held else math.inf,
        "",
        f"⌈S·R / ⌊{FILLED:g} · memory / shard server⌋⌉",
    )
    by_load = plan.add(
        "machines, by load",
        math.ceil(work.target_qps * plan["query in all"] / 1e3 / (BUSY * work.machine_cores)),
        "",
        f"⌈QPS · core-s a query / ({BUSY:g} · cores)⌉",
    )
    most = max(by_memory, by_load, work.replicas)
    plan.add("machines", most, "", "the largest, and one for each replica")


def _build(work: Workload, plan: Plan) -> None:
    """How long the index job takes on `index_cores`."""
    tokens, cores = plan["tokens"], work.index_cores
    hours = 3600 * cores
    encode = plan.add(
        "encoding", tokens / work.encode_rate / hours, "hours", "T / --encode-rate / --index-cores"
    )
    nearest = tokens * plan["centroids"] * work.dim / NEAREST_PRODUCTS_S
    rest = tokens / QUANTISED_TOKENS_S + tokens / WRITTEN_TOKENS_S
    compress = plan.add(
        "compressing",
        (nearest + rest) / hours,
        "hours",
        "(T·C·D / 1.4·10¹² + T / 2.5 M + T / 7.5 M) s / --index-cores",
    )
    plan.add("index job", encode + compress, "hours", "encoding + compressing; k-means is less")


def _warnings(work: Workload, plan: Plan) -> Iterator[str]:
    if plan["centroids"] > MANY_CENTROIDS:
        yield (
            f"{plan['centroids']:,.0f} centroids are compared one by one, by every query and for "
            f"every token that is compressed; --centroids {MANY_CENTROIDS} is cheaper to build "
            "and search, and its residuals are larger"
        )
    if math.isinf(plan["machines, by memory"]):
        yield (
            f"a shard server needs {plan['memory of a shard server'] / GIB:,.1f} GiB, more than a "
            "machine has for it; give --machine-memory or --centroids"
        )
    if work.replicas == 1:
        yield "with one replica, a machine that is lost takes its shards with it; give --replicas 2"
