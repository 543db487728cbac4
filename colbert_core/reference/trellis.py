"""Trellis-coded residuals: how bits become levels, and which bits are best.

Shapes: T tokens, D dimensions, B packed bytes of a token, S states, W = 64 windows.

The b bits of a token's dimensions follow each other in one string, bit k of it being bit k mod 8
of byte k div 8. The level of dimension d is one of 64, named by the *window* of six bits that ends
with the dimension's own: bits b·d + b − 6 … b·d + b − 1, the last of them the highest, bits before
the string being zero. So b bits choose one of 2^b levels, and which 2^b those are depends on the
bits before: a choice among more levels than b bits can tell apart, at no byte more. Known as a
bitshift trellis (Tseng et al. 2024, QTIP), after trellis-coded quantisation (Marcellin & Fischer
1990) and Ungerboeck's codes.

The state before a dimension is the 6 − b bits that its window shares with the one before.
"""

from __future__ import annotations

import numpy as np

from colbert_core.reference.checks import check_array, require, require_dim
from colbert_core.types import F32, U8

WINDOW = 6
"""Bits that name a level."""

WINDOWS = 1 << WINDOW


def windows_of(packed_TB: U8, bits: int, dim: int) -> U8:
    """Packed uint8 [T, B] → the window of every dimension, uint8 [T, D]."""
    string_Tk = np.unpackbits(packed_TB, axis=1, bitorder="little")
    string_Tk = np.pad(string_Tk, ((0, 0), (WINDOW - bits, 0)))
    windows_TD = np.zeros((len(packed_TB), dim), np.uint8)
    for k in range(WINDOW):
        windows_TD |= string_Tk[:, k : k + bits * dim : bits] << k
    return windows_TD


def pack_windows(windows_TD: U8, bits: int) -> U8:
    """The inverse: a dimension's own bits are the highest of its window."""
    tokens, dim = windows_TD.shape
    own_TD = windows_TD >> (WINDOW - bits)
    string_TDb = (own_TD[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(string_TDb.reshape(tokens, dim * bits), axis=1, bitorder="little")


def best_windows(values_TD: F32, bits: int, levels_W: F32) -> U8:
    """Windows uint8 [T, D] of the bits whose levels have the least squared distance to the values.

    Viterbi's algorithm: for every state the cheapest bits that lead to it. A window is the state
    that it leads to and the bits that it lets fall: window = state · 2^b + fallen. Costs are
    float32, added by ascending d; of equal ones the smaller fallen bits and the smaller last state
    win.
    """
    tokens, dim = values_TD.shape
    states, branches = WINDOWS >> bits, 1 << bits
    windows_Sf = np.arange(WINDOWS).reshape(states, branches)
    costs_TS = np.full((tokens, states), np.inf, np.float32)
    costs_TS[:, 0] = 0
    fallen_DTS = np.empty((dim, tokens, states), np.uint8)
    for d in range(dim):
        errors_TW = values_TD[:, d, None] - levels_W
        offered_TSf = costs_TS[:, windows_Sf % states] + (errors_TW * errors_TW)[:, windows_Sf]
        fallen_DTS[d] = offered_TSf.argmin(axis=2)
        costs_TS = offered_TSf.min(axis=2)
    windows_TD = np.empty((tokens, dim), np.uint8)
    state_T = costs_TS.argmin(axis=1)
    for d in reversed(range(dim)):
        windows_TD[:, d] = state_T * branches + fallen_DTS[d, np.arange(tokens), state_T]
        state_T = windows_TD[:, d] % states
    return windows_TD


def best_bits(values_TD: F32, bits: int, levels_W: F32, threads: int = 1) -> U8:
    """The same as packed bytes, uint8 [T, B].

    Raises:
        ValueError: an array or number that cannot be; the message names it.
    """
    check_array("values_TD", values_TD, 2, "float32")
    require(bits in (1, 2, 3, 4), f"bits {bits} must be 1, 2, 3 or 4")
    check_array("levels_W", levels_W, 1, "float32")
    require(len(levels_W) == WINDOWS, f"levels_W has {len(levels_W)} entries, expected {WINDOWS}")
    require(threads >= 1, f"threads {threads} must be at least 1")
    dim = values_TD.shape[1]
    require_dim(dim)
    return pack_windows(best_windows(values_TD, bits, levels_W), bits)
