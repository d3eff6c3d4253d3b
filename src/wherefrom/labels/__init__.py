"""Wrong labels: signs of them, ranked, with a proposal for each, and how well a ranking finds known ones."""

from wherefrom.labels.agreement import Agreement
from wherefrom.labels.audit import COMBINED, LabelAudit, Suspect
from wherefrom.labels.classes import has_class_labels
from wherefrom.labels.combine import Ranking, combine
from wherefrom.labels.disagreement import Disagreement
from wherefrom.labels.evaluation import auroc, average_precision, found_fraction
from wherefrom.labels.every_label import RelabelScores, relabel_scores
from wherefrom.labels.proposals import PROPOSALS_RIGHT
from wherefrom.labels.signals import label_signals
from wherefrom.labels.wrong_count import WrongCount

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
