"""Random linear maps of gradients to fewer dimensions: seeded, reproducible, their distortion measured."""

from wherefrom.gradients.projections.base import BoundProjection, Projection
from wherefrom.gradients.projections.distortion import Distortion, measure_distortion
from wherefrom.gradients.projections.gaussian import Gaussian
from wherefrom.gradients.projections.layer_blocks import MatrixBlock, matrix_blocks
from wherefrom.gradients.projections.logra import BoundLoGra, LayerProjection, LoGra
from wherefrom.gradients.projections.rademacher import Rademacher
from wherefrom.gradients.projections.sparse_jl import SparseJL

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
