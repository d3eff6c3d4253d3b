"""Model + loss + parameters + data as functions of the parameters."""

from whence.task.alone import OneAtATime, alone, refuse_autocast
from whence.task.batched_backward import batched_backward
from whence.task.checks import (
    check_examples,
    check_inputs_untouched,
    check_meaning,
    check_model,
)
from whence.task.data_form import DataForm, as_given
from whence.task.examples import Examples
from whence.task.independence import Seen, check_batch_independence
from whence.task.labels import class_numbers
from whence.task.objective import Measure, Objective, differentiable_attention
from whence.task.parameters import ParameterSet
from whence.task.regulariser import CustomRegulariser, Regulariser, WeightDecay
from whence.task.training_data import TrainingData, inputs_of, target_of, with_inputs, with_target

__all__ = [
    "CustomRegulariser",
    "DataForm",
    "Examples",
    "Measure",
    "Objective",
    "OneAtATime",
    "ParameterSet",
    "Regulariser",
    "Seen",
    "TrainingData",
    "WeightDecay",
    "alone",
    "as_given",
    "batched_backward",
    "check_batch_independence",
    "check_examples",
    "check_inputs_untouched",
    "check_meaning",
    "check_model",
    "class_numbers",
    "differentiable_attention",
    "inputs_of",
    "refuse_autocast",
    "target_of",
    "with_inputs",
    "with_target",
]
