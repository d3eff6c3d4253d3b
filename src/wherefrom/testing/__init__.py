"""Contracts that third parties can run on their own layer rules, losses, operators and solvers, and dense
float64 oracles to compare with."""

from wherefrom.testing.dense import DenseProblem
from wherefrom.testing.gradient_forms import check_gradient_form
from wherefrom.testing.layer_rules import check_layer_rule
from wherefrom.testing.losses import check_loss
from wherefrom.testing.operators import check_operator
from wherefrom.testing.solvers import check_solver

__all__ = [
    "DenseProblem",
    "check_gradient_form",
    "check_layer_rule",
    "check_loss",
    "check_operator",
    "check_solver",
]
