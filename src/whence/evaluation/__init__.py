"""Scores against the truth: retraining."""

from whence.evaluation.recipes import FullBatch
from whence.evaluation.verification import Verification
from whence.evaluation.verify import Recipe, verify_removals

__all__ = ["FullBatch", "Recipe", "Verification", "verify_removals"]
