"""Changes of the training data: predicted by influence, carried out by retraining."""

from whence.interventions.carry_out import carry_out, edited_data
from whence.interventions.change import Change
from whence.interventions.edited_objective import EditedObjective
from whence.interventions.edits import Edits, Indices, add, perturb, relabel, remove, replace, upweight
from whence.interventions.intervention import Intervention
from whence.interventions.outcome import Outcome
from whence.interventions.predict import Order, predict_change

__all__ = [
    "Change",
    "EditedObjective",
    "Edits",
    "Indices",
    "Intervention",
    "Order",
    "Outcome",
    "add",
    "carry_out",
    "edited_data",
    "perturb",
    "predict_change",
    "relabel",
    "remove",
    "replace",
    "upweight",
]
