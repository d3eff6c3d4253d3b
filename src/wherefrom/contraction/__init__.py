"""The contraction planner: from factored gradients and a block inverse to scores, by the cheapest route."""

from wherefrom.contraction.plan import BlockPlan, Plan
from wherefrom.contraction.run import GradientSource, contract, plan_contraction

__all__ = [
    "BlockPlan",
    "GradientSource",
    "Plan",
    "contract",
    "plan_contraction",
]
