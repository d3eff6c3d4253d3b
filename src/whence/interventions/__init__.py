"""Changes of the training data: predicted by influence, carried out by retraining."""

from whence.interventions.change import Change
from whence.interventions.edited_objective import EditedObjective
from whence.interventions.edits import Edits, add, perturb, relabel, remove, replace, upweight
from whence.interventions.predict import predict_change

__all__ = [
    "Change",
    "EditedObjective",
    "Edits",
    "add",
    "perturb",
    "predict_change",
    "relabel",
    "remove",
    "replace",
    "upweight",
]
