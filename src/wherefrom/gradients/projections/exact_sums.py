"""Sums of products that are exact, hence the same in every order: in every batch, on every device.

Each row is split into slices of integers on a grid of its own; integers times small integers add up without
rounding while the total stays below `2^53`, whatever the order a matrix product takes (Ozaki et al. 2012;
Demmel & Nguyen 2013).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Numbers added up together, at most.
BLOCK = 4096
_BLOCK_BITS = 12
_EXACT_BITS = 52
# Exponents outside have no grid within float64's range: numbers below 2^-900 count as zeros of the grid.
_LOWEST_EXPONENT = -900
_BIAS, _MANTISSA = 1023, 52


@dataclass(frozen=True)
class Slice:
    """`integers · unit` is one part of the rows, `unit` a power of two for each row."""

    integers: Float[Tensor, "b c"]
    unit: Float[Tensor, "b 1"]


def slices(rows: Float[Tensor, "b c"], factor_bits: int) -> list[Slice]:
    """Rows of at most `BLOCK` numbers as a sum of slices whose products with integers below `2^factor_bits`
    add up exactly.

    What is left out is below `2^-(bits+1)` (float32) or `2^-(2 bits+1)` (float64) of the row's largest entry,
    with `bits = 40 − factor_bits`: no more than the rounding of its own dtype.
    """
    bits = _EXACT_BITS - _BLOCK_BITS - factor_bits
    rest = rows.double()
    exponent = torch.frexp(rest.abs().amax(1, keepdim=True)).exponent.clamp(min=_LOWEST_EXPONENT)
    made = []
    for _ in range(2 if rows.dtype == torch.float64 else 1):
        unit = _power_of_two(exponent - bits)
        integers = (rest * _power_of_two(bits - exponent)).round()
        made.append(Slice(integers, unit))
        rest = rest - integers * unit
        exponent = exponent - bits
    return made


def _power_of_two(exponent: Int[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
    """`2^exponent` exactly, from its bits: `exp2` and `pow` may be off by a unit, differently in vectors."""
    return ((exponent.long() + _BIAS) << _MANTISSA).view(torch.float64)
