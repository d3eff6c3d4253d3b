"""Symmetric linear operators and their spectra: no networks here, everything can be tested on plain
matrices."""

from whence.linalg.batched_cg import batched_cg
from whence.linalg.cholesky import InPlaceCholesky
from whence.linalg.hadamard import HadamardExpansion, expand_inverse
from whence.linalg.lanczos import Spectrum, lanczos_spectrum
from whence.linalg.operators import (
    DenseOperator,
    DiagonalOperator,
    FactoredOperator,
    LinearOperator,
    SumOperator,
    split_diagonal,
)

__all__ = [
    "DenseOperator",
    "DiagonalOperator",
    "FactoredOperator",
    "HadamardExpansion",
    "InPlaceCholesky",
    "LinearOperator",
    "Spectrum",
    "SumOperator",
    "batched_cg",
    "expand_inverse",
    "lanczos_spectrum",
    "split_diagonal",
]
