"""The three questions a reader has before trusting a score, answered in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from whence.report.numbers import number, shown_error
from whence.report.sections import ReportSection

_LEVEL_OF_MINIMUM = {"minimum": "good", "near": "fair", "not a minimum": "poor"}


@dataclass(frozen=True)
class Verdict:
    """An answer: `level` is `"good"`, `"fair"`, `"poor"` or `"none"` (not checked)."""

    question: str
    level: str
    answer: str
    words: str
    numbers: tuple[tuple[str, str], ...] = ()


def resolution(section: ReportSection) -> float:
    """Relative spacing of numbers in the dtype the scores were computed in."""
    return torch.finfo(section.scores.values.dtype).eps


def verdicts(section: ReportSection) -> list[Verdict]:
    """Is it a minimum, are the scores accurate, does retraining agree."""
    return [_minimum(section), _solver(section), _retraining(section)]


def _minimum(section: ReportSection) -> Verdict:
    check = section.minimum
    answer = {"minimum": "Yes", "near": "Nearly", "not a minimum": "No"}[check.verdict]
    words = check.words.split(": ", 1)[1]
    return Verdict(
        "Is the model at a minimum?",
        _LEVEL_OF_MINIMUM[check.verdict],
        answer,
        words[0].upper() + words[1:],
        (
            ("Leftover gradient", f"{number(check.removals, 2)} removals"),
            ("Smallest curvature", number(check.smallest_curvature, 3)),
        ),
    )


def _solver(section: ReportSection) -> Verdict:
    scores = section.scores
    rows = [row for ranking in (scores.helpful(section.top), scores.harmful(section.top)) for row in ranking]
    largest = max(
        shown_error(row["estimate"], row["bound"], row["score"], resolution(section)) for row in rows
    )
    typical = float(np.median([abs(row["score"]) for row in rows]))
    relative = largest / typical if typical > 0 else 0.0
    residual = float(scores.relative_residual.max())
    numbers = (
        ("Largest error shown", f"{number(relative, 1)} of a typical score"),
        ("Worst relative residual", number(residual, 2)),
    )
    missing = int((~scores.converged).sum())
    if missing:
        words = f"{missing} of {len(scores)} queries did not reach the tolerance asked for. {scores.reason}"
        return Verdict("Are the scores computed accurately?", "poor", "Not all", words, numbers)
    if relative <= 1e-2:
        words = "Every query was solved. The solver's errors are too small to change what is shown."
        return Verdict("Are the scores computed accurately?", "good", "Yes", words, numbers)
    words = (
        "Every query was solved, but the errors show beside the scores: a stricter tolerance sharpens them."
    )
    return Verdict("Are the scores computed accurately?", "fair", "Roughly", words, numbers)


def _retraining(section: ReportSection) -> Verdict:
    question = "Does retraining agree?"
    check = section.verification
    if check is None:
        words = "Nothing was retrained. With a recipe, this answer becomes a measurement."
        return Verdict(question, "none", "Not checked", words)
    judgement = check.judgement()
    numbers = (
        ("Pearson", number(check.pearson(), 4)),
        ("Spearman", number(check.spearman(), 4)),
        ("Slope", number(check.slope(), 3)),
    )
    words = judgement.words
    if check.failed:
        tried = len(check.failed) + len(check.removed)
        words += f" {len(check.failed)} of {tried} retrainings did not converge and are left out."
    return Verdict(question, judgement.level, judgement.answer, words, numbers)
