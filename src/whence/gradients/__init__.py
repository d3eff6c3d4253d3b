"""Derivatives of the objective on batches: Jacobian products, per-example gradients, Hessian products."""

from whence.gradients.capture import Capture
from whence.gradients.derivative_check import (
    check_loss,
    check_regulariser,
    describe_suspects,
    right_hvp_modes,
    weight_normalised,
)
from whence.gradients.derivative_probe import DerivativeProbe, gradient_at, own_functions
from whence.gradients.engine import MAX_COLUMNS, GradientEngine
from whence.gradients.hvp import HvpMode, fastest_hvp_mode, hessian_product
from whence.gradients.last_layer import head_objective
from whence.gradients.layer_gradients import Coverage, LayerGradients
from whence.gradients.linearisation import Evaluated, Linearisation
from whence.gradients.per_example import ExampleGradients
from whence.gradients.projected import ProjectedGradients, project_gradients
from whence.gradients.rounding import GradientSizes

__all__ = [
    "MAX_COLUMNS",
    "Capture",
    "Coverage",
    "DerivativeProbe",
    "Evaluated",
    "ExampleGradients",
    "GradientEngine",
    "GradientSizes",
    "HvpMode",
    "LayerGradients",
    "Linearisation",
    "ProjectedGradients",
    "check_loss",
    "check_regulariser",
    "describe_suspects",
    "fastest_hvp_mode",
    "gradient_at",
    "head_objective",
    "hessian_product",
    "own_functions",
    "project_gradients",
    "right_hvp_modes",
    "weight_normalised",
]
