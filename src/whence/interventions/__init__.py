"""Changes of the training data: predicted by influence, carried out by retraining."""

from whence.interventions.carry_out import carry_out, edited_data
from whence.interventions.change import Change
from whence.interventions.edited_objective import EditedObjective
from whence.interventions.edits import Edits, Indices, add, perturb, relabel, remove, replace, upweight
from whence.interventions.flip import FlipOrder, find_flips
from whence.interventions.flip_confirm import confirm_flips
from whence.interventions.flip_sets import Confirmation, FlipSet, Robustness
from whence.interventions.flips import Flips
from whence.interventions.growing import RemovalCurve, removal_curve
from whence.interventions.intervention import Intervention
from whence.interventions.outcome import Outcome
from whence.interventions.predict import Order, predict_change

__all__ = [
    "Change",
    "Confirmation",
    "EditedObjective",
    "Edits",
    "FlipOrder",
    "FlipSet",
    "Flips",
    "Indices",
    "Intervention",
    "Order",
    "Outcome",
    "RemovalCurve",
    "Robustness",
    "add",
    "carry_out",
    "confirm_flips",
    "edited_data",
    "find_flips",
    "perturb",
    "predict_change",
    "relabel",
    "removal_curve",
    "remove",
    "replace",
    "upweight",
]
