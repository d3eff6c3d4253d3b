"""Scores against the truth: retraining."""

from whence.evaluation.judgement import Judgement, judge
from whence.evaluation.recipes import FullBatch
from whence.evaluation.retraining import Recipe, Retraining, check_architecture
from whence.evaluation.verification import Verification
from whence.evaluation.verify import verify_removals

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
