"""Symmetric linear operators and their spectra: no networks here, everything can be tested on plain
matrices."""

from wherefrom.linalg.batched_cg import batched_cg
from wherefrom.linalg.cholesky import InPlaceCholesky
from wherefrom.linalg.density import SpectralDensity, spectral_density
from wherefrom.linalg.diagonal import DiagonalEstimate, estimate_diagonal
from wherefrom.linalg.eigenpairs import Eigenpairs, extreme_eigenpairs
from wherefrom.linalg.estimates import Estimate
from wherefrom.linalg.hadamard import HadamardExpansion, expand_inverse
from wherefrom.linalg.lanczos import Spectrum, lanczos_spectrum
from wherefrom.linalg.operators import (
    DenseOperator,
    DiagonalOperator,
    FactoredOperator,
    LinearOperator,
    SumOperator,
    split_diagonal,
)
from wherefrom.linalg.restricted import RestrictedOperator
from wherefrom.linalg.trace import estimate_trace

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
