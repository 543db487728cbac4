"""The engines, how each is built, and the settings at which each is measured.

The first setting of an engine is its own default; the others are the points of its curve.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EngineSpec:
    """One engine.

    Attributes:
        name: as reports show it.
        script: its adapter, beside this file.
        environment: folder under `.venv-peers`, or None for our own `.venv`.
        packages: whose versions a report names.
        builds: options of each index to build.
        settings: (label, what the adapter's `search` gets).
        kept_twice: file patterns that hold what another file of the index holds too.
    """

    name: str
    script: str
    environment: str | None
    packages: tuple[str, ...]
    builds: tuple[dict[str, Any], ...]
    settings: tuple[tuple[str, dict[str, Any]], ...]
    kept_twice: tuple[str, ...] = field(default=())

    @property
    def uses_torch(self) -> bool:
        """Whether torch's own thread counts must be set."""
        return self.environment is not None


def _cells(ncells: int, threshold: float, ndocs: int) -> dict[str, Any]:
    return {"ncells": ncells, "centroid_score_threshold": threshold, "ndocs": ndocs}


ENGINES = (
    EngineSpec(
        name="exhaustive",
        script="engine_exhaustive.py",
        environment=None,
        packages=("numpy",),
        builds=({"bits": 32},),
        settings=(("numpy fp32", {}),),
    ),
    EngineSpec(
        name="tartan",
        script="engine_tartan.py",
        environment=None,
        packages=("tartan-search",),
        builds=tuple(
            {"codec": codec, "bits": bits}
            for codec, widths in (("tartan", (1, 2, 4)), ("colbertv2", (1, 2, 4)))
            for bits in widths
        ),
        settings=(
            ("default (recall .95)", {}),
            ("recall .80", {"recall": 0.80}),
            ("recall .90", {"recall": 0.90}),
            ("recall .99", {"recall": 0.99}),
            ("exact", {"exact": True}),
        ),
    ),
    EngineSpec(
        name="colbert-ai",
        script="engine_colbert.py",
        environment="colbert",
        packages=("colbert-ai", "torch", "faiss-cpu"),
        builds=({"bits": 2}, {"bits": 4}),
        settings=(
            ("default for k", {}),
            ("2 cells, .45, 1,024", _cells(2, 0.45, 1024)),
            ("4 cells, .4, 4,096", _cells(4, 0.4, 4096)),
            ("8 cells, .3, 16,384", _cells(8, 0.3, 16384)),
        ),
    ),
    EngineSpec(
        name="fast-plaid",
        script="engine_fast_plaid.py",
        environment="plaid",
        packages=("fast-plaid", "torch"),
        builds=({"bits": 4}, {"bits": 2}),
        settings=(
            ("default (8 probes, 4,096)", {}),
            ("1 probe, 1,024", {"n_ivf_probe": 1, "n_full_scores": 1024}),
            ("4 probes, 1,024", {"n_ivf_probe": 4, "n_full_scores": 1024}),
        ),
    ),
    EngineSpec(
        name="xtr-warp-rs",
        script="engine_xtr_warp.py",
        environment="plaid",
        packages=("xtr-warp-rs", "torch"),
        builds=({"bits": 4}, {"bits": 2}),
        settings=(
            ("default (auto)", {}),
            ("32 probes", {"nprobe": 32}),
            ("128 probes", {"nprobe": 128, "bound": 2048}),
        ),
        kept_twice=("[0-9]*.codes.npy", "[0-9]*.residuals.npy"),
    ),
)
