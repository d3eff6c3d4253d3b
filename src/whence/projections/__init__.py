"""Random linear maps of gradients to fewer dimensions: seeded, reproducible, their distortion measured."""

from whence.projections.base import BoundProjection, Projection
from whence.projections.distortion import Distortion, measure_distortion
from whence.projections.gaussian import Gaussian
from whence.projections.layer_blocks import MatrixBlock, matrix_blocks
from whence.projections.logra import BoundLoGra, LayerProjection, LoGra
from whence.projections.rademacher import Rademacher
from whence.projections.sparse_jl import SparseJL

__all__ = [
    "BoundLoGra",
    "BoundProjection",
    "Distortion",
    "Gaussian",
    "LayerProjection",
    "LoGra",
    "MatrixBlock",
    "Projection",
    "Rademacher",
    "SparseJL",
    "matrix_blocks",
    "measure_distortion",
]
