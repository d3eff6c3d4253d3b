"""Changes of the training data: predicted by influence, carried out by retraining."""

from wherefrom.interventions.carry_out import carry_out, edited_data
from wherefrom.interventions.change import Change
from wherefrom.interventions.editable import Editable
from wherefrom.interventions.edited_objective import EditedObjective
from wherefrom.interventions.edits import Edits, Indices
from wherefrom.interventions.flip import FlipOrder, find_flips
from wherefrom.interventions.flip_confirm import confirm_flips
from wherefrom.interventions.flip_sets import Confirmation, FlipSet, Robustness
from wherefrom.interventions.flips import Flips
from wherefrom.interventions.growing import RemovalCurve, removal_curve
from wherefrom.interventions.intervention import Intervention
from wherefrom.interventions.outcome import Outcome
from wherefrom.interventions.predict import Order, predict_change

__all__ = [
    "Change",
    "Confirmation",
    "Editable",
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
    "carry_out",
    "confirm_flips",
    "edited_data",
    "find_flips",
    "predict_change",
    "removal_curve",
]
