"""Wrong labels: signs of them, ranked, with a proposal for each, and how well a ranking finds known ones."""

from whence.labels.agreement import Agreement
from whence.labels.audit import COMBINED, LabelAudit, Suspect
from whence.labels.classes import has_class_labels
from whence.labels.combine import combine
from whence.labels.evaluation import auroc, average_precision, found_fraction
from whence.labels.every_label import RelabelScores, relabel_scores
from whence.labels.signals import label_signals

__all__ = [
    "COMBINED",
    "Agreement",
    "LabelAudit",
    "RelabelScores",
    "Suspect",
    "auroc",
    "average_precision",
    "combine",
    "found_fraction",
    "has_class_labels",
    "label_signals",
    "relabel_scores",
]
