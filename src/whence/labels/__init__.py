"""Wrong labels: signs of them, ranked, with a proposal for each, and how well a ranking finds known ones."""

from whence.labels.agreement import Agreement
from whence.labels.audit import COMBINED, LabelAudit, Suspect
from whence.labels.classes import has_class_labels
from whence.labels.combine import Ranking, combine
from whence.labels.disagreement import Disagreement
from whence.labels.evaluation import auroc, average_precision, found_fraction
from whence.labels.every_label import RelabelScores, relabel_scores
from whence.labels.proposals import PROPOSALS_RIGHT
from whence.labels.signals import label_signals
from whence.labels.wrong_count import WrongCount

__all__ = [
    "COMBINED",
    "PROPOSALS_RIGHT",
    "Agreement",
    "Disagreement",
    "LabelAudit",
    "Ranking",
    "RelabelScores",
    "Suspect",
    "WrongCount",
    "auroc",
    "average_precision",
    "combine",
    "found_fraction",
    "has_class_labels",
    "label_signals",
    "relabel_scores",
]
