"""Building an index from texts on one GPU: ours beside PyLate's encode and fast-plaid's build.

    python benchmarks/gpu_build.py CORPUS.jsonl --model CHECKPOINT [--device cuda] [--bits 4]
        [--passages N] [--out RESULTS.json] [--alone]

Same texts, same model (in a format that PyLate loads), same GPU, same length of a passage. Ours is
the index job itself, on the GPUs that Ray finds: every stage from reading the corpus to publishing,
but for starting Ray and loading the model, which is not counted of the peers either. PyLate is
given each precision and batch size of a list, and the fastest counts; fast-plaid its defaults. Then
our stages alone, on vectors that are on the device: tokens a second of each.

The peers' environments come from `make peers`; the `pylate` one must have a torch that knows the
GPU. `--device cpu` compares on the processor. `--device torch:cpu` runs the GPU's steps of ours on
torch's CPU device: it shows that the script works, and says nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent / "peers"))

from machine import busy, machine

ROOT = Path(__file__).resolve().parents[1]
NOT_COUNTED = ("start", "total")
LIMIT_S = 4 * 3600
REPEATS = 3
STAGE_TOKENS = 1 << 18


def main() -> None:
    """Run all that was asked for, print it, and write it where asked."""
    options = arguments()
    os.environ["PYTHONPATH"] = str(ROOT)  # of the workers: what lies here is what is measured
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        texts = prepare(options, scratch)
        result: dict[str, Any] = {
            "machine": machine(),
            "load_before": busy(),
            "device": options.device,
            "model": Path(options.model).name,
            "bits": options.bits,
            "doc_maxlen": options.doc_maxlen,
            "passages": len(texts),
            "tartan": tartan(options, scratch),
        }
        if not options.alone:
            result["peers"] = peers(options, scratch)
            theirs = result["peers"]["seconds"]
            result["times_faster"] = theirs / result["tartan"]["seconds"]
        result["stages_alone"] = stages_alone(options, scratch / "index")
        result["load_after"] = busy()
    show(result)
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", required=True, help="folder of a checkpoint that PyLate loads")
    parser.add_argument("--device", choices=["cuda", "cpu", "torch:cpu"], default="cuda")
    parser.add_argument("--bits", type=int, choices=[1, 2, 4], default=4)
    parser.add_argument("--doc-maxlen", type=int, default=180)
    parser.add_argument("--passages", type=int, default=None, help="take so many of the corpus")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--out", type=Path, help="a file for the results, JSON")
    return parser.parse_args()


def prepare(options: argparse.Namespace, scratch: Path) -> list[str]:
    """The texts that all are given, as a list and as a corpus of our own."""
    from colbert_core.text.corpus import read_corpus

    documents = islice(read_corpus(options.corpus), options.passages)
    texts = [document.passage.text for document in documents]
    (scratch / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    with (scratch / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for row, text in enumerate(texts):
            file.write(json.dumps({"_id": str(row), "text": text}) + "\n")
    return texts


def tartan(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Our index job; seconds of its stages."""
    import cluster.job
    import cluster.job_stages
    from cluster.index_job import build_index

    device = cluster.job.device_of
    if options.device != "cuda":
        cluster.job.device_of = cluster.job_stages.device_of = lambda _plan: options.device
    report = build_index(
        scratch / "corpus.jsonl",
        scratch / "index",
        model=options.model,
        bits=options.bits,
        doc_maxlen=options.doc_maxlen,
        workers=1,
    )
    cluster.job.device_of = cluster.job_stages.device_of = device
    counted = sum(report.seconds[name] for name in report.seconds if name not in NOT_COUNTED)
    return {
        "seconds": counted,
        "stages": dict(report.seconds),
        "tokens": report.tokens,
        "bytes": report.bytes_total,
        "centroids": report.centroids,
    }


def peers(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """PyLate's fastest encoding, then fast-plaid's build of its vectors."""
    asked = {
        "texts": str(scratch / "texts.json"),
        "vectors": str(scratch),
        "model": str(Path(options.model).resolve()),
        "device": options.device.removeprefix("torch:"),
        "doc_maxlen": options.doc_maxlen,
        "precisions": options.precisions,
        "batches": options.batches,
        "bits": options.bits,
    }
    encoded = in_environment("pylate", "gpu_pylate.py", asked, scratch)
    built = in_environment("plaid", "gpu_fast_plaid.py", asked, scratch)
    fastest = min(encoded["runs"], key=lambda run: run["seconds"])
    return {
        "seconds": fastest["seconds"] + built["seconds"],
        "encode": fastest,
        "build": built,
        "all_encodes": encoded,
    }


def in_environment(name: str, script: str, asked: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """The answer of a script that runs in a peer's environment.

    Raises:
        SystemExit: it failed, or the environment has not been made.
    """
    python = ROOT / ".venv-peers" / name / "bin" / "python"
    if not python.exists():
        raise SystemExit(f"{python} is not there: run `make peers`, or give --alone")
    request, answer = scratch / "request.json", scratch / f"{name}.json"
    request.write_text(json.dumps(asked), encoding="utf-8")
    command = [str(python), str(ROOT / "benchmarks" / "peers" / script), str(request), str(answer)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{script} failed: {(done.stdout + done.stderr)[-2000:]}")
    return dict(json.loads(answer.read_text(encoding="utf-8")))


def stages_alone(options: argparse.Namespace, index: Path) -> dict[str, float]:
    """Tokens a second of the steps of compression, on vectors that are on the device."""
    import torch

    from colbert_core.codec.assign import one_scale
    from colbert_core.codec.on_device import TorchCompressor
    from colbert_core.index import open_generation
    from colbert_core.torch_kernels import open_device
    from colbert_core.torch_kernels.device import upload
    from colbert_core.torch_kernels.nearest import TorchNearest, to_int8

    device = open_device("torch:cpu" if options.device == "cpu" else options.device)
    generation = open_generation(index)
    codec, shard = generation.codec, generation.shards[0]
    stop = next(shard.runs(0, shard.passages, STAGE_TOKENS))[1]
    stored, doclens_N = shard.compressed(0, stop)
    some = len(stored)
    noise = np.random.default_rng(0).standard_normal((some, codec.dim)).astype(np.float32)
    vectors_TD = codec.decode(stored, doclens_N) + noise * np.float32(0.1 / codec.dim**0.5)
    on_device_TD = upload(vectors_TD, device)
    compressor = TorchCompressor(codec, device)
    nearest = TorchNearest(upload(one_scale(codec.centroids_CD), device))
    rows_TD = to_int8(on_device_TD)[0]

    def rate(work: Callable[[], object]) -> float:
        def wait() -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()

        work()
        wait()
        began = time.perf_counter()
        for _ in range(REPEATS):
            work()
        wait()
        return some * REPEATS / (time.perf_counter() - began)

    return {
        "tokens": some,
        "nearest_tokens_per_s": rate(lambda: nearest.assign(rows_TD)),
        "compress_tokens_per_s": rate(lambda: compressor.compress(on_device_TD, doclens_N)),
        "native_one_core_tokens_per_s": rate(lambda: codec.compress(vectors_TD, doclens_N)),
    }


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    passages, ours = result["passages"], result["tartan"]
    print(f"{passages:,} passages, {ours['tokens']:,} tokens, {result['device']}")
    print(f"tartan  {passages / ours['seconds']:10,.1f} passages/s  {ours['seconds']:8.2f} s")
    print("        " + ", ".join(f"{name} {s:.2f}" for name, s in ours["stages"].items()))
    if "peers" in result:
        theirs = result["peers"]
        encode, build = theirs["encode"], theirs["build"]
        print(
            f"peers   {passages / theirs['seconds']:10,.1f} passages/s  {theirs['seconds']:8.2f} s"
        )
        print(
            f"        encode {encode['seconds']:.2f} ({encode['precision']}, batches of "
            f"{encode['batch']}), build {build['seconds']:.2f}"
        )
        print(f"times as fast: {result['times_faster']:.2f}")
    for name, value in result["stages_alone"].items():
        print(f"{name:30} {value:14,.0f}")


if __name__ == "__main__":
    main()
