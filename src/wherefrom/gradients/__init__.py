"""Derivatives of the objective on batches: Jacobian products, per-example gradients, Hessian products."""

from wherefrom.gradients.capture import Capture
from wherefrom.gradients.derivative_check import (
    check_loss,
    check_regulariser,
    describe_suspects,
    right_hvp_modes,
    weight_normalised,
)
from wherefrom.gradients.derivative_probe import DerivativeProbe, gradient_at, own_functions
from wherefrom.gradients.engine import MAX_COLUMNS, GradientEngine
from wherefrom.gradients.hvp import HvpMode, fastest_hvp_mode, hessian_product
from wherefrom.gradients.last_layer import head_objective
from wherefrom.gradients.layer_gradients import Coverage, LayerGradients
from wherefrom.gradients.linearisation import Evaluated, Linearisation
from wherefrom.gradients.per_example import ExampleGradients
from wherefrom.gradients.projected import ProjectedGradients, project_gradients
from wherefrom.gradients.rounding import GradientSizes

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
