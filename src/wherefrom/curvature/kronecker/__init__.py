"""K-FAC, EK-FAC and diagonal approximations of Gauss-Newton and Fisher matrices."""

from wherefrom.curvature.kronecker.basis import Basis
from wherefrom.curvature.kronecker.curvature import BlockSpectralOperator, KroneckerCurvature
from wherefrom.curvature.kronecker.files import read_bases, read_sums, write_bases, write_sums
from wherefrom.curvature.kronecker.gather import KroneckerGathering
from wherefrom.curvature.kronecker.inverse import (
    BlockInverse,
    factored_inverses,
    identity_inverses,
    inverse_operator,
    kronecker_inverses,
)
from wherefrom.curvature.kronecker.moments import BlockMoments, KroneckerMoments
from wherefrom.curvature.kronecker.options import KroneckerOptions, Labels, Sharing
from wherefrom.curvature.kronecker.ranges import Ranges
from wherefrom.curvature.kronecker.stored import KroneckerStore, gather_kronecker
from wherefrom.curvature.kronecker.sums import EigenvalueSums, ExampleSums

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
