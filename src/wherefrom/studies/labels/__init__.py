"""Wrong labels: signs of them, ranked, with a proposal for each, and how well a ranking finds known ones."""

from wherefrom.studies.labels.agreement import Agreement
from wherefrom.studies.labels.audit import COMBINED, LabelAudit, Suspect
from wherefrom.studies.labels.classes import has_class_labels
from wherefrom.studies.labels.combine import SignRanking, combine
from wherefrom.studies.labels.disagreement import Disagreement
from wherefrom.studies.labels.evaluation import auroc, average_precision, found_fraction
from wherefrom.studies.labels.every_label import RelabelScores, relabel_scores
from wherefrom.studies.labels.proposals import PROPOSALS_RIGHT
from wherefrom.studies.labels.signals import label_signals
from wherefrom.studies.labels.wrong_count import WrongCount

__all__ = [
    "COMBINED",
    "PROPOSALS_RIGHT",
    "Agreement",
    "Disagreement",
    "LabelAudit",
    "RelabelScores",
    "SignRanking",
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
