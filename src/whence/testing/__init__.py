"""Contracts that third parties can run on their own operators, and dense float64 oracles to compare with."""

from whence.testing.dense import DenseProblem
from whence.testing.operators import check_operator

__all__ = ["DenseProblem", "check_operator"]
