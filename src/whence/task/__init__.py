"""Model + loss + parameters + data as functions of the parameters."""

from whence.task.checks import (
    check_batch_independence,
    check_examples,
    check_inputs_untouched,
    check_model,
)
from whence.task.examples import Examples
from whence.task.objective import Measure, Objective, differentiable_attention
from whence.task.parameters import ParameterSet
from whence.task.regulariser import CustomRegulariser, Regulariser, WeightDecay

__all__ = [
    "CustomRegulariser",
    "Examples",
    "Measure",
    "Objective",
    "ParameterSet",
    "Regulariser",
    "WeightDecay",
    "check_batch_independence",
    "check_examples",
    "check_inputs_untouched",
    "check_model",
    "differentiable_attention",
]
