"""The best bits along the trellis, of many tokens at once: Viterbi's algorithm on a device.

Shapes: T tokens, D dimensions, B packed bytes, W = 64 windows, S states, f = 2^b branches.

`reference/trellis.py` is the definition. Tensors lie tokens last, so that every step of a dimension
is elementwise work on tokens side by side. A step is one difference, one product and one sum of
float32, each rounded, as there: the bits are the same ones.
"""

from __future__ import annotations

import torch

from colbert_core.reference.trellis import WINDOW, WINDOWS


def best_windows(values_TD: torch.Tensor, bits: int, levels_W: torch.Tensor) -> torch.Tensor:
    """Float32 [T, D] → windows uint8 [T, D] whose levels have the least squared distance.

    Takes D · S bytes a token while it runs.
    """
    tokens, dim = values_TD.shape
    device, states, branches = values_TD.device, WINDOWS >> bits, 1 << bits
    values_DT, levels_W1 = values_TD.t().contiguous(), levels_W[:, None]
    costs_ST = torch.full((states, tokens), torch.inf, device=device)
    costs_ST[0] = 0
    fallen_DST = torch.empty((dim, states, tokens), dtype=torch.uint8, device=device)
    for d in range(dim):
        errors_WT = values_DT[d] - levels_W1
        errors_WT *= errors_WT
        # A window's last bits are the state before, its first ones the state after.
        offered_fST = errors_WT.view(branches, states, tokens) + costs_ST
        costs_ST, least_ST = offered_fST.view(states, branches, tokens).min(dim=1)
        fallen_DST[d] = least_ST
    return _trace(fallen_DST, costs_ST.argmin(dim=0), bits).t().contiguous()


def _trace(fallen_DST: torch.Tensor, state_T: torch.Tensor, bits: int) -> torch.Tensor:
    """The windows uint8 [D, T] that lead to the last states int64 [T]; overwrites its input."""
    dim, states, tokens = fallen_DST.shape
    own_S1 = torch.arange(states, dtype=torch.uint8, device=state_T.device)[:, None] << bits
    windows_DST = fallen_DST.add_(own_S1)  # a window is its state and the bits that fall
    windows_DT = torch.empty((dim, tokens), dtype=torch.uint8, device=state_T.device)
    for d in reversed(range(dim)):
        torch.gather(windows_DST[d], 0, state_T[None], out=windows_DT[d : d + 1])
        state_T = windows_DT[d].long() & (states - 1)
    return windows_DT


def pack_windows(windows_TD: torch.Tensor, bits: int) -> torch.Tensor:
    """Windows uint8 [T, D] → packed bits uint8 [T, B]: eight dimensions fill `bits` bytes."""
    tokens, dim = windows_TD.shape
    eights = torch.arange(8, device=windows_TD.device)
    own_TGi = (windows_TD >> (WINDOW - bits)).long().view(tokens, dim // 8, 8)
    strings_TG1 = (own_TGi << (eights * bits)).sum(dim=2, keepdim=True)
    bytes_TGb = (strings_TG1 >> (eights[:bits] * 8)) & 255
    return bytes_TGb.to(torch.uint8).view(tokens, dim * bits // 8)
