"""Random signs that depend on one number each example was dealt, whatever the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_BITS = 2.0**52


def random_signs(uniforms: Float[Tensor, " b"], count: int) -> Float[Tensor, "b c"]:
    """`count` independent signs for each of these numbers between 0 and 1, as float64 on the CPU."""
    rows = []
    for number in uniforms.double().cpu().tolist():
        generator = torch.Generator().manual_seed(int(number * _BITS))
        rows.append(torch.randint(0, 2, (count,), generator=generator).double() * 2 - 1)
    return torch.stack(rows) if rows else torch.zeros(0, count, dtype=torch.float64)
