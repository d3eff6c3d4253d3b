"""Training-set attacks on one's own model: how few imperceptibly edited training examples flip its
predictions."""

from wherefrom.studies.attack.budget import Budget
from wherefrom.studies.attack.outcome import AttackStep
from wherefrom.studies.attack.poisoning import PoisonedQuery, PoisoningAudit, audit_poisoning
from wherefrom.studies.attack.result import AttackResult, Controls, EditSize
from wherefrom.studies.attack.run import run_attack

__all__ = [
    "AttackResult",
    "AttackStep",
    "Budget",
    "Controls",
    "EditSize",
    "PoisonedQuery",
    "PoisoningAudit",
    "audit_poisoning",
    "run_attack",
]
