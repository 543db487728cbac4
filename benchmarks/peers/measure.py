"""One engine built and searched, as rows of figures: one per index, search and throughput."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from adapter import Vectors
from collection import Collection
from engines import EXACT, Build, EngineSpec, Run, runs
from launch import Bench, index_bytes, label_of
from truth import ndcg_at_10, overlap, overlap_between

Row = dict[str, Any]


@dataclass(frozen=True)
class Measurements:
    """What all engines are measured on, and how.

    Attributes:
        exact: int64 [queries, max k], the right answers.
        ks: hits asked for.
        threads: of one query; the first count gets all settings, the others the defaults alone.
    """

    bench: Bench
    collection: Collection
    vectors: Vectors
    exact: np.ndarray
    ks: list[int]
    threads: list[int]

    def of(
        self, spec: EngineSpec, build: Build, *, rebuild: bool
    ) -> tuple[Row, list[Row], list[Row]]:
        """One index of one engine: its row, its searches, its throughput.

        Raises:
            RuntimeError: the engine failed; the end of what it printed.
        """
        name = {"engine": spec.name, "index": label_of(build.options)} | build.options
        built = self.bench.build(spec, build.options, rebuild=rebuild)
        wanted = runs(build, self.ks)
        first = next(run for run in wanted if run.default)
        together = [(first, at_once) for at_once in self.threads]
        searches: list[Row] = []
        throughput: list[Row] = []
        index: Row = {}
        for number, threads in enumerate(self.threads):
            chosen = wanted if number == 0 else [run for run in wanted if run.default]
            answer = self.bench.search(
                spec,
                build.options,
                chosen,
                threads=threads,
                together=together if number == 0 else [],
            )
            searches += self._searches(name, chosen, answer, threads)
            if number == 0:
                throughput = [
                    name | {"setting": run.setting.label, "k": run.k, "at_once": at_once} | found
                    for (run, at_once), found in zip(together, answer["together"], strict=True)
                ]
                index = name | self._index(spec, build, built, answer)
        return index, searches, throughput

    def _index(self, spec: EngineSpec, build: Build, built: Row, answer: Row) -> Row:
        tokens, dim = self.vectors.tokens.shape
        sizes = index_bytes(self.bench.index(spec, build.options), spec)
        return {
            "bytes": sizes["total"],
            "bytes_once": sizes["once"],
            "bytes_texts": sizes["texts"],
            "bytes_per_token": sizes["total"] / tokens,
            "bytes_once_per_token": sizes["once"] / tokens,
            "smaller_than_fp16": 2 * dim * tokens / sizes["total"],
            **_building(built, tokens),
            "open_seconds": answer["open_seconds"],
            # After the default at the smallest k alone: later settings touch more of the index.
            "search_resident_bytes": answer["runs"][0]["memory"]["resident"],
            "search_private_bytes": answer["runs"][0]["memory"]["anonymous"],
            "resident_before_bytes": answer["memory_before"]["resident"],
            "search_peak_bytes": answer["memory"]["peak"],
            "search_load": [answer["load_before"], answer["load_after"]],
        }

    def _searches(self, name: Row, chosen: list[Run], answer: Row, threads: int) -> list[Row]:
        found = list(zip(chosen, answer["runs"], strict=True))
        own = next((run["top"] for asked, run in found if asked.setting.label == EXACT), None)
        return [
            name | self._search(asked, run, k, own, threads)
            for asked, run in found
            for k in (self.ks if asked.setting.head else [asked.k])
        ]

    def _search(
        self, asked: Run, run: Row, k: int, own: list[list[int]] | None, threads: int
    ) -> Row:
        """`own` is the same index's exhaustive answer, `kept` the share of it that was found."""
        p50, p95, p99 = np.percentile(run["latency_ms"], [50, 95, 99])
        top = run["top"]
        return {
            "setting": asked.setting.label,
            "knobs": asked.setting.knobs,
            "default": asked.default,
            "k": k,
            "measured_at_k": asked.k,
            "threads": threads,
            "p50_ms": float(p50),
            "p95_ms": float(p95),
            "p99_ms": float(p99),
            "mean_ms": float(np.mean(run["latency_ms"])),
            "cpu_p50_ms": float(np.median(run["cpu_ms"])),
            "queries": len(top),
            "hits": float(np.mean([len(hits[:k]) for hits in top])),
            "passes": run["passes"],
            "cpu_per_wall": run["cpu_per_wall"],
            "overlap": overlap(top, self.exact, k),
            "kept": overlap_between(top, own, k) if own else None,
            "ndcg_at_10": ndcg_at_10(top, self.collection),
        }


def _building(built: Row, tokens: int) -> Row:
    """What building took; nothing but the note where an index was not built but written."""
    row: Row = {"build_seconds": built.get("seconds"), "build_note": built.get("note")}
    if row["build_seconds"] is None:
        return row
    return row | {
        "build_cpu_seconds": built["cpu_seconds"],
        "build_stages": built.get("stages", {}),
        "build_tokens_per_s": tokens / built["seconds"],
        "build_tokens_per_cpu_s": tokens / built["cpu_seconds"],
        "build_peak_bytes": built["memory"]["peak"],
        "build_peak_private_bytes": built.get("private_peak"),
        "build_load": [built["load_before"], built["load_after"]],
    }
