"""Random linear maps of gradients to fewer dimensions: seeded, reproducible, their distortion measured."""

from wherefrom.projections.base import BoundProjection, Projection
from wherefrom.projections.distortion import Distortion, measure_distortion
from wherefrom.projections.gaussian import Gaussian
from wherefrom.projections.layer_blocks import MatrixBlock, matrix_blocks
from wherefrom.projections.logra import BoundLoGra, LayerProjection, LoGra
from wherefrom.projections.rademacher import Rademacher
from wherefrom.projections.sparse_jl import SparseJL

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
