"""Symmetric linear operators and their spectra: no networks here, everything can be tested on plain
matrices."""

from whence.linalg.batched_cg import batched_cg
from whence.linalg.cholesky import InPlaceCholesky
from whence.linalg.density import SpectralDensity, spectral_density
from whence.linalg.diagonal import DiagonalEstimate, estimate_diagonal
from whence.linalg.eigenpairs import Eigenpairs, extreme_eigenpairs
from whence.linalg.estimates import Estimate
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
from whence.linalg.restricted import RestrictedOperator
from whence.linalg.trace import estimate_trace

__all__ = [
    "DenseOperator",
    "DiagonalEstimate",
    "DiagonalOperator",
    "Eigenpairs",
    "Estimate",
    "FactoredOperator",
    "HadamardExpansion",
    "InPlaceCholesky",
    "LinearOperator",
    "RestrictedOperator",
    "SpectralDensity",
    "Spectrum",
    "SumOperator",
    "batched_cg",
    "estimate_diagonal",
    "estimate_trace",
    "expand_inverse",
    "extreme_eigenpairs",
    "lanczos_spectrum",
    "spectral_density",
    "split_diagonal",
]
