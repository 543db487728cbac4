"""The engines, how each is built, and the settings at which each is measured.

The first setting of an engine is its own default; the others are the points of its curve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """One point of an engine's curve.

    Attributes:
        label: as reports show it.
        knobs: what the adapter's `search` gets.
        head: k does not change what is computed, so that the hits at a smaller k are the head of
            those at a larger one: measured once, at the largest k.
    """

    label: str
    knobs: dict[str, Any]
    head: bool = False


@dataclass(frozen=True)
class Build:
    """One index of an engine: its options, and how many of the engine's settings it is run at."""

    options: dict[str, Any]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Run:
    """One measurement: a setting at one k. `default` says whether a user gets it unasked."""

    setting: Setting
    k: int
    default: bool


@dataclass(frozen=True)
class EngineSpec:
    """One engine.

    Attributes:
        name: as reports show it.
        script: its adapter, beside this file.
        environment: folder under `.venv-peers`, or None for our own `.venv`.
        packages: whose versions a report names.
        builds: each index to build, with the settings to run it at, the default first.
        kept_twice: file patterns that hold what another file of the index holds too.
        texts: file patterns of stored passages, which count as no engine's index.
    """

    name: str
    script: str
    environment: str | None
    packages: tuple[str, ...]
    builds: tuple[Build, ...]
    kept_twice: tuple[str, ...] = field(default=())
    texts: tuple[str, ...] = field(default=())

    @property
    def uses_torch(self) -> bool:
        """Whether torch's own thread counts must be set."""
        return self.environment is not None


def runs(build: Build, ks: list[int]) -> list[Run]:
    """Every setting at every k, or at the largest alone where that tells all."""
    return [
        Run(setting, k, default=number == 0)
        for number, setting in enumerate(build.settings)
        for k in ([max(ks)] if setting.head else ks)
    ]


def _cells(ncells: int, threshold: float, ndocs: int) -> Setting:
    knobs = {"ncells": ncells, "centroid_score_threshold": threshold, "ndocs": ndocs}
    shown = f"{threshold:g}".removeprefix("0")
    return Setting(f"{ncells} cell{'s' * (ncells > 1)}, {shown}, {ndocs:,} docs", knobs, head=True)


def _full_scores(probes: int, count: int) -> Setting:
    knobs = {"n_ivf_probe": probes, "n_full_scores": count}
    return Setting(f"{probes} probe{'s' * (probes > 1)}, {count:,} full", knobs, head=True)


def _raw(nprobe: int, per_hit: float, scored_per_hit: float | None = None) -> Setting:
    label = f"{nprobe} probes, {per_hit:g} candidates a hit"
    knobs = {"nprobe": nprobe, "candidates_per_hit": per_hit}
    if scored_per_hit is None:
        return Setting(label, knobs)
    return Setting(
        f"{label}, {scored_per_hit:g} scored", knobs | {"scored_per_hit": scored_per_hit}
    )


def _coarse(nprobe: int, per_hit: float) -> Setting:
    """Hits that centroids alone rank: a large k at a small price."""
    setting = _raw(nprobe, per_hit)
    return Setting(f"{setting.label}, none scored", setting.knobs | {"scored": 0})


EXACT = "exact"
TARTAN_DEFAULT = Setting("default (recall .99)", {})
TARTAN_EXACT = Setting(EXACT, {"exact": True}, head=True)
TARTAN = (
    TARTAN_DEFAULT,
    *(Setting(f"recall .{percent}", {"recall": percent / 100}) for percent in (80, 85, 90)),
    *(Setting(f"recall .{percent}", {"recall": percent / 100}) for percent in (95, 98)),
    _coarse(16, 1),
    _coarse(20, 1),
    _coarse(16, 2),
    _coarse(24, 1),
    _coarse(32, 1),
    _coarse(32, 2),
    _coarse(64, 1),
    _coarse(64, 3),
    _coarse(64, 4),
    _raw(16, 6.4),
    _raw(32, 6.4),
    _raw(12, 12, 2),
    _raw(16, 12, 3),
    TARTAN_EXACT,
)
COLBERT = (
    Setting("default for k", {}),
    _cells(1, 0.6, 64),
    _cells(2, 0.45, 1024),
    _cells(4, 0.4, 4096),
    _cells(8, 0.3, 16384),
)
FAST_PLAID_DEFAULT = Setting("default (8 probes, 4,096 full)", {})
FAST_PLAID = (
    FAST_PLAID_DEFAULT,
    _full_scores(1, 256),
    _full_scores(1, 1024),
    _full_scores(4, 1024),
)
XTR = (
    Setting("default (auto)", {}),
    Setting("32 probes", {"nprobe": 32}),
    Setting("128 probes", {"nprobe": 128, "bound": 2048}),
)

ENGINES = (
    EngineSpec(
        name="exhaustive",
        script="engine_exhaustive.py",
        environment=None,
        packages=("numpy",),
        builds=(Build({"bits": 32}, (Setting("numpy fp32", {}, head=True),)),),
    ),
    EngineSpec(
        name="tartan",
        script="engine_tartan.py",
        environment=None,
        packages=("tartan-search",),
        # The paper's codec is there for what it keeps, which two settings tell.
        builds=(
            *(Build({"codec": "tartan", "bits": bits}, TARTAN) for bits in (2, 1, 3, 4)),
            # Between 2 and 3 bits: what more centroids keep, for a byte a token.
            Build(
                {"codec": "tartan", "bits": 2, "centroids_factor": 2},
                (TARTAN_DEFAULT, _coarse(64, 3), _coarse(64, 4), TARTAN_EXACT),
            ),
            *(
                Build({"codec": "colbertv2", "bits": bits}, (TARTAN_DEFAULT, TARTAN_EXACT))
                for bits in (1, 2, 3, 4)
            ),
        ),
        texts=("texts.arrow",),
    ),
    EngineSpec(
        name="colbert-ai",
        script="engine_colbert.py",
        environment="colbert",
        packages=("colbert-ai", "torch", "faiss-cpu"),
        builds=tuple(Build({"bits": bits}, COLBERT) for bits in (4, 2)),
    ),
    EngineSpec(
        name="fast-plaid",
        script="engine_fast_plaid.py",
        environment="plaid",
        packages=("fast-plaid", "torch"),
        builds=(Build({"bits": 4}, FAST_PLAID), Build({"bits": 2}, (FAST_PLAID_DEFAULT,))),
    ),
    EngineSpec(
        name="xtr-warp-rs",
        script="engine_xtr_warp.py",
        environment="plaid",
        packages=("xtr-warp-rs", "torch"),
        builds=tuple(Build({"bits": bits}, XTR) for bits in (4, 2)),
        kept_twice=("[0-9]*.codes.npy", "[0-9]*.residuals.npy"),
    ),
)
