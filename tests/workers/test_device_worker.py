"""A worker that computes on a device, here torch's CPU, beside one on the processor's kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from colbert_core.codec import train_codec
from colbert_core.errors import EncodeFailed, InvalidInput
from workers.encoder import CodecRef, EncoderWorker, SharedCodec, WorkerSettings, project
from workers.units import Staging, Unit, UnitRow

MODEL = Path(__file__).parents[1] / "fixtures" / "encoder_parity" / "stanford" / "checkpoint"
TEXTS = ["late interaction", "", "one vector for each token of a passage " * 5, "?", "the end"] * 5
UNIT = Unit(0, 0, len(TEXTS), 0, "p0", "p24")
SKIP = (3, 11)


@pytest.fixture(autouse=True)
def codec_is_here(monkeypatch):
    """What Ray would fetch is in the reference itself."""
    monkeypatch.setattr("workers.encoder.ray.get", lambda ref, timeout: ref)


def worker_on(device, folder, **settings):
    staging = Staging(folder / device.replace(":", "-"))
    staging.create()
    rows = [UnitRow(f"p{i}", text, "{}", 0, i + 1) for i, text in enumerate(TEXTS)]
    staging.write_unit(0, rows)
    return EncoderWorker(WorkerSettings(str(staging.folder), str(MODEL), 32, device, 1, **settings))


def chunk_of(worker):
    return Staging(worker._settings.staging).chunk(0)


@pytest.fixture(scope="module", params=[("tartan", None), ("colbertv2", 8)])
def shared(request, tmp_path_factory):
    """Either codec; one on a projection to 8 dimensions."""
    name, dim = request.param
    worker = worker_on("cpu", tmp_path_factory.mktemp("sample"))
    worker.embed(UNIT, ())
    raw_TD = Staging(worker._settings.staging).vectors(0).on_host()
    width = raw_TD.shape[1]
    matrix = None if dim is None else np.eye(width, dtype=np.float32)[:, :dim].copy()
    sample_TD = project(raw_TD, matrix)
    codec = train_codec(sample_TD, name=name, bits=2, centroids=20, total_tokens=400)
    return SharedCodec(codec, matrix, 1)


def test_a_unit_is_compressed_as_on_the_processor(shared, tmp_path):
    chunks = []
    for device in ("cpu", "torch:cpu"):
        worker = worker_on(device, tmp_path)
        result = worker.compress(UNIT, SKIP, CodecRef(shared))
        chunks.append(chunk_of(worker))
        assert (result.passages, result.skipped) == (len(TEXTS) - 2, SKIP)
        assert result.tokens == len(chunks[-1].tokens) == chunks[-1].doclens_N.sum()
    cpu, device = chunks
    np.testing.assert_array_equal(device.doclens_N, cpu.doclens_N)
    assert device.truncated == cpu.truncated > 0
    np.testing.assert_array_equal(device.tokens.codes_T, cpu.tokens.codes_T)
    same = device.tokens.residuals_TB == cpu.tokens.residuals_TB
    assert same.mean() > 0.99
    decoded = [shared.codec.decode(one.tokens, one.doclens_N) for one in (device, cpu)]
    cosines = (decoded[0] * decoded[1]).sum(axis=1)
    lengths = np.linalg.norm(decoded[1], axis=1) ** 2
    np.testing.assert_allclose(cosines / lengths, 1, atol=0.02)


def test_a_sampled_unit_gets_the_bytes_of_one_that_was_not(shared, tmp_path):
    worker = worker_on("torch:cpu", tmp_path)
    worker.compress(UNIT, (), CodecRef(shared))
    staging = Staging(worker._settings.staging)
    direct = staging.chunk_path(0).read_bytes()
    worker.embed(UNIT, ())
    assert staging.vectors(0) is not None
    worker.compress(UNIT, (), CodecRef(shared))
    assert staging.vectors(0) is None
    assert staging.chunk_path(0).read_bytes() == direct


def test_kept_vectors_are_the_processors(tmp_path):
    kept = []
    for device in ("cpu", "torch:cpu"):
        worker = worker_on(device, tmp_path)
        worker.embed(UNIT, SKIP)
        kept.append(Staging(worker._settings.staging).vectors_path(0).read_bytes())
    assert kept[0] == kept[1]


def test_pooled_vectors(shared, tmp_path):
    pooled = SharedCodec(shared.codec, shared.projection, 2)
    chunks = []
    for device in ("cpu", "torch:cpu"):
        worker = worker_on(device, tmp_path)
        worker.compress(UNIT, (), CodecRef(pooled))
        chunks.append(chunk_of(worker))
    np.testing.assert_array_equal(chunks[1].doclens_N, chunks[0].doclens_N)
    assert len(chunks[1].tokens) == len(chunks[0].tokens)
    assert (chunks[1].tokens.codes_T == chunks[0].tokens.codes_T).mean() > 0.95


def test_windows_and_empty_units(shared, tmp_path):
    for device in ("cpu", "torch:cpu"):
        worker = worker_on(device, tmp_path, long_documents="split")
        worker.compress(UNIT, SKIP, CodecRef(shared))
        windows_N3 = chunk_of(worker).windows_N3
        assert len(windows_N3) > len(TEXTS) - 2
        worker.compress(UNIT, tuple(range(len(TEXTS))), CodecRef(shared))
        assert len(chunk_of(worker).tokens) == 0


def test_a_model_that_fails_is_told_apart_from_the_device(tmp_path, monkeypatch):
    worker = worker_on("torch:cpu", tmp_path)
    worker.load()
    assert worker.probe(UNIT, (0, 1)) > 0

    def fail(texts):
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(worker._model(), "encode_on_device", fail)
    with pytest.raises(EncodeFailed, match="illegal memory access"):
        worker.probe(UNIT, (0,))


def test_arithmetic_that_is_not_exact_is_refused(shared, tmp_path, monkeypatch):
    def refuse(device):
        raise InvalidInput(f"{device} multiplies in less than float32 precision")

    monkeypatch.setattr("colbert_core.torch_kernels.device.check_arithmetic", refuse)
    with pytest.raises(InvalidInput, match="less than float32"):
        worker_on("torch:cpu", tmp_path).compress(UNIT, (), CodecRef(shared))
