"""Training-set attacks on one's own model: how few imperceptibly edited training examples flip its
predictions."""

from whence.attack.budget import Budget
from whence.attack.outcome import Step
from whence.attack.poisoning import PoisonedQuery, PoisoningAudit, audit_poisoning
from whence.attack.result import AttackResult, Controls, EditSize
from whence.attack.run import run_attack

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
