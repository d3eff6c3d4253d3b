"""The contraction planner: from factored gradients and a block inverse to scores, by the cheapest route."""

from wherefrom.solvers.contraction.plan import BlockPlan, Plan
from wherefrom.solvers.contraction.run import GradientSource, contract, plan_contraction

__all__ = [
    "BlockPlan",
    "GradientSource",
    "Plan",
    "contract",
    "plan_contraction",
]
