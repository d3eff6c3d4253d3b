"""Model + loss + parameters + data as functions of the parameters."""

from wherefrom.task.alone import OneAtATime, alone, refuse_autocast
from wherefrom.task.batched_backward import batched_backward
from wherefrom.task.checks import (
    check_examples,
    check_inputs_untouched,
    check_meaning,
    check_model,
)
from wherefrom.task.data import Data, inputs_of, target_of, with_inputs, with_target
from wherefrom.task.data_form import DataForm, as_given
from wherefrom.task.examples import Examples
from wherefrom.task.independence import Seen, check_batch_independence
from wherefrom.task.labels import class_numbers
from wherefrom.task.objective import Measure, Objective, differentiable_attention
from wherefrom.task.parameters import ParameterSet
from wherefrom.task.regulariser import CustomRegulariser, Regulariser, WeightDecay
from wherefrom.task.sums import sum_over_batches

__all__ = [
    "CustomRegulariser",
    "Data",
    "DataForm",
    "Examples",
    "Measure",
    "Objective",
    "OneAtATime",
    "ParameterSet",
    "Regulariser",
    "Seen",
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
    "sum_over_batches",
    "target_of",
    "with_inputs",
    "with_target",
]
