"""K-FAC, EK-FAC and diagonal approximations of Gauss-Newton and Fisher matrices."""

from whence.curvature.kronecker.basis import Basis
from whence.curvature.kronecker.curvature import BlockSpectralOperator, KroneckerCurvature
from whence.curvature.kronecker.gather import KroneckerOptions, gather_kronecker
from whence.curvature.kronecker.inverse import (
    BlockInverse,
    factored_inverses,
    identity_inverses,
    inverse_operator,
    kronecker_inverses,
)
from whence.curvature.kronecker.moments import BlockMoments, KroneckerMoments

__all__ = [
    "Basis",
    "BlockInverse",
    "BlockMoments",
    "BlockSpectralOperator",
    "KroneckerCurvature",
    "KroneckerMoments",
    "KroneckerOptions",
    "factored_inverses",
    "gather_kronecker",
    "identity_inverses",
    "inverse_operator",
    "kronecker_inverses",
]
