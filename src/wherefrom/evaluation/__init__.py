"""Scores against the truth: retraining."""

from wherefrom.evaluation.judgement import Judgement, judge
from wherefrom.evaluation.recipes import FullBatch
from wherefrom.evaluation.retraining import Recipe, Retraining, check_architecture
from wherefrom.evaluation.verification import Verification
from wherefrom.evaluation.verify import verify_removals

__all__ = [
    "FullBatch",
    "Judgement",
    "Recipe",
    "Retraining",
    "Verification",
    "check_architecture",
    "judge",
    "verify_removals",
]
