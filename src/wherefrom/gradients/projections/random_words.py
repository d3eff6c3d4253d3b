"""Random words by position: any tile of a random matrix is made from its place alone, without what comes
before it."""

from __future__ import annotations

import numpy as np

# Streams of the projections, so that two kinds with one seed share nothing.
RADEMACHER, GAUSSIAN, SPARSE, ORTHOGONAL = range(4)


def philox(seed: int, stream: int, first: int, second: int = 0) -> np.random.Philox:
    """The counter-based generator at a place `(first, second)` of a stream (Salmon et al. 2011).

    Its raw words are part of NumPy's promise of compatibility; they differ neither between versions nor
    between machines.
    """
    key = np.array([seed % 2**64, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, first, second, 0], dtype=np.uint64))


def random_bytes(seed: int, stream: int, first: int, second: int, count: int) -> np.ndarray:
    """`count` bytes (a multiple of 8) at a place, the same on machines of either byte order."""
    words = philox(seed, stream, first, second).random_raw(count // 8)
    return words.astype("<u8").view(np.uint8)
