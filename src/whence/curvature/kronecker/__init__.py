"""K-FAC, EK-FAC and diagonal approximations of Gauss-Newton and Fisher matrices."""

from whence.curvature.kronecker.basis import Basis
from whence.curvature.kronecker.curvature import BlockSpectralOperator, KroneckerCurvature
from whence.curvature.kronecker.files import read_bases, read_sums, write_bases, write_sums
from whence.curvature.kronecker.gather import KroneckerGathering
from whence.curvature.kronecker.inverse import (
    BlockInverse,
    factored_inverses,
    identity_inverses,
    inverse_operator,
    kronecker_inverses,
)
from whence.curvature.kronecker.moments import BlockMoments, KroneckerMoments
from whence.curvature.kronecker.options import KroneckerOptions, Labels, Sharing
from whence.curvature.kronecker.ranges import Ranges
from whence.curvature.kronecker.stored import KroneckerStore, gather_kronecker
from whence.curvature.kronecker.sums import EigenvalueSums, ExampleSums

__all__ = [
    "Basis",
    "BlockInverse",
    "BlockMoments",
    "BlockSpectralOperator",
    "EigenvalueSums",
    "ExampleSums",
    "KroneckerCurvature",
    "KroneckerGathering",
    "KroneckerMoments",
    "KroneckerOptions",
    "KroneckerStore",
    "Labels",
    "Ranges",
    "Sharing",
    "factored_inverses",
    "gather_kronecker",
    "identity_inverses",
    "inverse_operator",
    "kronecker_inverses",
    "read_bases",
    "read_sums",
    "write_bases",
    "write_sums",
]
