"""Uniform numbers by place: what an example is dealt does not depend on the examples around it."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def placed_uniforms(seed: int, examples: np.ndarray, draw: int, count: int) -> Float[Tensor, "b s"]:
    """Numbers strictly between 0 and 1 in float64, `count` for each example, that depend on seed, example
    number, draw and position alone: the finaliser of SplitMix64 (Steele, Lea & Flood 2014) over each in turn.

    Args:
        seed: any integer.
        examples: numbers of the examples, `(b,)`.
        draw: which of several draws.
        count: numbers for each example.
    """
    key = _mixed(np.array([seed % 2**64], dtype=np.uint64))
    each = _mixed(key + examples.astype(np.uint64) * _GOLDEN)
    drawn = _mixed(each + np.array([draw + 1], dtype=np.uint64) * _GOLDEN)
    words = _mixed(drawn[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return torch.from_numpy(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)


def _mixed(words: np.ndarray) -> np.ndarray:
    words = (words ^ (words >> np.uint64(30))) * _FIRST
    words = (words ^ (words >> np.uint64(27))) * _SECOND
    return words ^ (words >> np.uint64(31))
