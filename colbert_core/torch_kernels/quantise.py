"""Residuals to packed bits and scale bytes, on a device.

Shapes: T tokens, D dimensions, B packed bytes of a token.

`reference/residuals.py` is the definition, step for step: every sum has its order, and every other
result is one operation of float32, so that bytes are the same. Where torch would divide by a number
through its reciprocal, both sides are tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from colbert_core.reference.residuals import PLANES
from colbert_core.torch_kernels.trellis import best_windows, pack_windows

_LANES = 16


@dataclass(frozen=True)
class TartanSteps:
    """What `tartan` quantises with, float32 on the device.

    Attributes:
        levels_W: [64], of the trellis.
        ratios: [8], what the low three bits of a scale byte stand for.
        ratio_borders: [7], between them.
        gain_borders: [31], between what the high five stand for.
    """

    levels_W: torch.Tensor
    ratios: torch.Tensor
    ratio_borders: torch.Tensor
    gain_borders: torch.Tensor


@dataclass(frozen=True)
class ColbertSteps:
    """What `colbertv2` quantises with: float32 levels [2^b] and cutoffs [2^b − 1] on the device,
    the inverse norm of scale byte 0, and how many bytes a unit of inverse norm has."""

    levels: torch.Tensor
    cutoffs: torch.Tensor
    lowest: float
    steps: float


def quantise_tartan(
    vectors_TD: torch.Tensor, centroids_TD: torch.Tensor, bits: int, steps: TartanSteps
) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32 [T, D] and the centroid of each → packed bits uint8 [T, B], scale bytes uint8 [T]."""
    residuals_TD = vectors_TD - centroids_TD
    ratio_T = _fit_ratios(residuals_TD, bits, steps.levels_W)
    step_T = torch.bucketize(ratio_T, steps.ratio_borders)
    ratio_T1 = steps.ratios[step_T, None].clamp_min(1e-6)
    windows_TD = best_windows(residuals_TD * ratio_T1.reciprocal(), bits, steps.levels_W)
    chosen_TD = _look_up(steps.levels_W, windows_TD)
    lengths_T = _norms(centroids_TD + residuals_TD)
    gain_T = lengths_T / _norms(centroids_TD + ratio_T1 * chosen_TD)
    gain_step_T = torch.bucketize(gain_T, steps.gain_borders)
    return pack_windows(windows_TD, bits), (step_T | gain_step_T << 3).to(torch.uint8)


def quantise_colbertv2(
    vectors_TD: torch.Tensor, centroids_TD: torch.Tensor, bits: int, steps: ColbertSteps
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same for `colbertv2`, whose packed uint8 [T, B] are indices."""
    indices_TD = torch.bucketize(vectors_TD - centroids_TD, steps.cutoffs, out_int32=True)
    inverse_T = _inverse_norms(centroids_TD + _look_up(steps.levels, indices_TD))
    step_T = ((inverse_T - steps.lowest) * steps.steps).round_().clamp_(0, 255)
    return _pack_planes(indices_TD, bits), step_T.to(torch.uint8)


def _fit_ratios(residuals_TD: torch.Tensor, bits: int, levels_W: torch.Tensor) -> torch.Tensor:
    """What levels are best multiplied by, float32 [T]."""
    squares_T1 = _strided_sums(residuals_TD * residuals_TD)
    mean_T1 = squares_T1 / torch.full_like(squares_T1, residuals_TD.shape[1])
    scale_T1 = mean_T1.sqrt_().clamp_min_(1e-6)
    windows_TD = best_windows(residuals_TD * scale_T1.reciprocal(), bits, levels_W)
    chosen_TD = _look_up(levels_W, windows_TD)
    lengths_T1 = _strided_sums(chosen_TD * chosen_TD).clamp_min_(1e-12)
    fit_T1 = _strided_sums(residuals_TD * chosen_TD) / lengths_T1
    return fit_T1[:, 0].clamp_min_(1e-6)


def _inverse_norms(vectors_TD: torch.Tensor) -> torch.Tensor:
    """What makes each vector's length one, float32 [T]."""
    return _norms(vectors_TD).reciprocal()


def _norms(vectors_TD: torch.Tensor) -> torch.Tensor:
    """How long each vector is, float32 [T], at least 1e-6."""
    norms_T1 = _strided_sums(vectors_TD * vectors_TD).sqrt_().clamp_min_(1e-6)
    return norms_T1[:, 0]


def _look_up(levels: torch.Tensor, indices_TD: torch.Tensor) -> torch.Tensor:
    """Float32 [T, D]."""
    return levels.index_select(0, indices_TD.int().view(-1)).view(indices_TD.shape)


def _strided_sums(values_TD: torch.Tensor) -> torch.Tensor:
    """Float32 [T, 1]: `reference.residuals.strided_sums`."""
    tokens, dim = values_TD.shape
    chunks_TkW = pad(values_TD, (0, -dim % _LANES)).view(tokens, -(-dim // _LANES), _LANES)
    parts_TW = torch.zeros_like(chunks_TkW[:, 0])
    for k in range(chunks_TkW.shape[1]):
        parts_TW = parts_TW + chunks_TkW[:, k]
    for half in (8, 4, 2, 1):
        parts_TW = parts_TW[:, :half] + parts_TW[:, half : 2 * half]
    return parts_TW


def _pack_planes(indices_TD: torch.Tensor, bits: int) -> torch.Tensor:
    """Int32 [T, D] indices below 2^bits → uint8 [T, B]: `reference.residuals.pack_planes`."""
    tokens, dim = indices_TD.shape
    planes = []
    for width, shift in PLANES[bits]:
        fields = 8 // width
        values_TD = (indices_TD >> shift) & ((1 << width) - 1)
        values_Tji = values_TD.view(tokens, fields, dim // fields)
        places_j1 = torch.arange(fields, dtype=torch.int32, device=indices_TD.device)[:, None]
        planes.append((values_Tji << (places_j1 * width)).sum(dim=1).to(torch.uint8))
    return torch.cat(planes, dim=1)
