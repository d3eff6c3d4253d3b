"""The three questions a reader has before trusting a score, answered in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wherefrom.report.blocks import Verdict
from wherefrom.report.layers import distance_words, relative_size
from wherefrom.report.numbers import number, shown_error
from wherefrom.report.sections import ReportSection

_ACCURATE = "Are the scores computed accurately?"
# Errors below this share of a typical score change nothing that is shown.
_ACCURATE_TO = 1e-2
# Errors beyond this share of the scores leave little of them.
_ROUGH = 0.5
_LEVEL_OF_MINIMUM = {"minimum": "good", "near": "fair", "not a minimum": "poor"}


def resolution(section: ReportSection) -> float:
    """Relative spacing of numbers in the dtype the scores were computed in."""
    return torch.finfo(section.scores.values.dtype).eps


def verdicts(section: ReportSection) -> list[Verdict]:
    """Is it a minimum, are the scores accurate, does retraining agree."""
    return [_minimum(section), _solver(section), _retraining(section)]


def _minimum(section: ReportSection) -> Verdict:
    check = section.minimum
    if check is None:
        words = "This method does not say whether the parameters are a minimum of the objective."
        return Verdict("Is the model at a minimum?", "none", "Not checked", words)
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
    if section.scores.plan is not None:
        return _approximation(section, section.scores.plan)
    rows = [row for ranking in (scores.helpful(section.top), scores.harmful(section.top)) for row in ranking]
    largest = max(shown_error(row["error"], row["bound"], row["score"], resolution(section)) for row in rows)
    typical = float(np.median([abs(row["score"]) for row in rows]))
    relative = largest / typical if typical > 0 else 0.0
    residual = float(scores.relative_residual.max())
    numbers: tuple[tuple[str, str], ...] = (("Largest error shown", _share(relative)),)
    if section.solved:
        numbers += (("Worst relative residual", number(residual, 2)),)
    missing = int((~scores.converged).sum())
    if missing:
        words = f"{missing} of {len(scores)} queries did not reach the tolerance asked for. {scores.reason}"
        return Verdict(_ACCURATE, "poor", "Not all", words, numbers)
    if relative <= _ACCURATE_TO:
        words = "Every query was solved. The solver's errors are too small to change what is shown."
        if not section.solved:
            words = "The errors that the method states are too small to change what is shown."
        return Verdict(_ACCURATE, "good", "Yes", words, numbers)
    if not math.isfinite(relative):
        words = "Every query was solved, but how far the scores are off was not measured."
        if not section.solved:
            words = "This method states no errors of its scores."
        return Verdict(_ACCURATE, "none", "Not measured", words, numbers)
    better = "Stricter settings of the solver, Exact() or CG() sharpen them." if section.solved else ""
    if relative > _ROUGH:
        words = f"The errors are as large as the scores. {better}".rstrip()
        return Verdict(_ACCURATE, "poor", "No", words, numbers)
    solved = "Every query was solved, but the" if section.solved else "The"
    words = f"{solved} errors show beside the scores. {better}".rstrip()
    return Verdict(_ACCURATE, "fair", "Roughly", words, numbers)


def _approximation(section: ReportSection, plan: Mapping[str, Any]) -> Verdict:
    """Of solvers that approximate the curvature, layer by layer: how much that changes the scores."""
    distance = section.scores.distance
    numbers = (
        (
            "Distance to the full curvature, same damping",
            "not measured" if distance is None else relative_size(distance),
        ),
        (
            "Error of the contraction",
            number(plan["measured_error"], 1) if plan["measured_error"] else "rounding",
        ),
    )
    words = distance_words(section)
    if distance is None:
        return Verdict(_ACCURATE, "none", "Not measured", words, numbers)
    if distance <= _ACCURATE_TO:
        return Verdict(_ACCURATE, "good", "Yes", words, numbers)
    words += " Exact() and CG() solve with all of it; retraining tells what either is worth."
    if distance <= _ROUGH:
        return Verdict(_ACCURATE, "fair", "Roughly", words, numbers)
    return Verdict(_ACCURATE, "poor", "No", words, numbers)


def _share(relative: float) -> str:
    return f"{number(relative, 1)} of a typical score" if math.isfinite(relative) else "not measured"


def _retraining(section: ReportSection) -> Verdict:
    question = "Does retraining agree?"
    check = section.verification
    if check is None:
        words = "Nothing was retrained. With a recipe, this answer becomes a measurement."
        return Verdict(question, "none", "Not checked", words)
    judgement = check.judgement()
    numbers: tuple[tuple[str, str], ...] = (
        ("Pearson", number(check.pearson(), 4)),
        ("Spearman", number(check.spearman(), 4)),
    )
    if check.sized:
        numbers += (("Slope", number(check.slope(), 3)),)
    corrected = check.corrected_slope()
    if corrected is not None:
        numbers += (("Slope with leverage", number(corrected, 3)),)
    words = judgement.words
    if check.failed:
        tried = len(check.failed) + len(check.removed)
        words += f" {len(check.failed)} of {tried} retrainings did not converge and are left out."
    return Verdict(question, judgement.level, judgement.answer, words, numbers)
