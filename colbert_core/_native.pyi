"""Types of the native kernels. `reference/` documents every call; the two have one signature."""

from colbert_core.types import F32, I8, I32, I64, U8

class CentroidTable:
    def __init__(self, codes_CD: I8, scales_C: F32) -> None: ...
    @property
    def centroids(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def probe(
        self, Q_LD: F32, nprobe: int, threads: int = 1, keep_rows: bool = False
    ) -> tuple[I32, F32]: ...

class Shard:
    def __init__(
        self,
        table: CentroidTable,
        passages: int,
        codes: U8,
        residuals_TB: U8,
        scales_T: U8,
        contexts_NX: U8 | None,
        offsets: U8,
        posting_offsets: U8,
        postings: U8,
        bits: int,
        levels: F32,
        alpha: F32,
        beta: F32,
        centroids_f32: F32 | None,
        normalize: bool,
    ) -> None: ...
    @property
    def passages(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def search(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        k: int,
        candidates: int,
        allowed_N: U8 | None = None,
        deadline_s: float = 0.0,
        margin: float = ...,
        scored: int = ...,
        missed: float = ...,
        spread: float = ...,
    ) -> tuple[I64, F32, int, int]: ...
    def approximate(
        self,
        Q_LD: F32,
        probe_ids_LP: I32,
        probe_scores_LP: F32,
        allowed_N: U8 | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> tuple[I64, F32]: ...
    def exhaustive(
        self, Q_LD: F32, k: int, allowed_N: U8 | None = None, deadline_s: float = 0.0
    ) -> tuple[I64, F32, int, int]: ...
    def interaction(self, Q_LD: F32, pids: I64) -> F32: ...
    def score(self, Q_LD: F32, pids: I64) -> F32: ...
    def match(self, Q_LD: F32, pid: int) -> tuple[I32, F32]: ...
    def decode(self, first_token: int, count: int) -> F32: ...
    def _age_scratch(self) -> None: ...

class StringColumn:
    def __init__(self, batch_rows: int) -> None: ...
    def add(self, number: int, offsets: I32, data: U8) -> None: ...
    def take(self, rows_M: I64) -> list[str]: ...

def isa() -> str: ...
def isas() -> list[str]: ...
def use_isa(name: str) -> None: ...

RUN: int

class NearestCentroid:
    def __init__(self, codes_CD: I8) -> None: ...
    @property
    def centroids(self) -> int: ...
    @property
    def dim(self) -> int: ...
    def assign(self, tokens_TD: I8, threads: int = 1) -> I32: ...
    def assign_among(
        self, tokens_TD: I8, order_T: I32, starts_G1: I64, runs_GM: I32, threads: int = 1
    ) -> I32: ...

def rotate(vectors_TD: F32, rotation_DD: F32, threads: int = 1) -> F32: ...
def to_int8(vectors_TD: F32, threads: int = 1) -> tuple[I8, F32]: ...
def add_rows(
    values_SD: I8, weights_S: I32, codes_S: I32, sums_CD: I64, threads: int = 1
) -> None: ...
def best_bits(values_TD: F32, bits: int, levels_W: F32, threads: int = 1) -> U8: ...
def quantise_tartan(
    vectors_TD: F32,
    codes_T: I32,
    centroids_CD: F32,
    bits: int,
    levels: F32,
    ratio_steps: F32,
    gain_steps: F32,
    threads: int = 1,
) -> tuple[U8, U8]: ...
def quantise_colbertv2(
    vectors_TD: F32,
    codes_T: I32,
    centroids_CD: F32,
    bits: int,
    levels: F32,
    cutoffs: F32,
    lowest: float,
    steps: float,
    threads: int = 1,
) -> tuple[U8, U8]: ...
