"""Training-set attacks on one's own model: how few imperceptibly edited training examples flip its
predictions."""

from wherefrom.attack.budget import Budget
from wherefrom.attack.outcome import Step
from wherefrom.attack.poisoning import PoisonedQuery, PoisoningAudit, audit_poisoning
from wherefrom.attack.result import AttackResult, Controls, EditSize
from wherefrom.attack.run import run_attack

__all__ = [
    "AttackResult",
    "Budget",
    "Controls",
    "EditSize",
    "PoisonedQuery",
    "PoisoningAudit",
    "Step",
    "audit_poisoning",
    "run_attack",
]
