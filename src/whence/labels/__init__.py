"""Wrong labels: signs of them, ranked, with a proposal for each, and how well a ranking finds known ones."""

from whence.labels.agreement import Agreement
from whence.labels.audit import COMBINED, LabelAudit, Suspect
from whence.labels.combine import combine
from whence.labels.evaluation import auroc, average_precision, found_fraction
from whence.labels.signals import label_signals

__all__ = [
    "COMBINED",
    "Agreement",
    "LabelAudit",
    "Suspect",
    "auroc",
    "average_precision",
    "combine",
    "found_fraction",
    "label_signals",
]
