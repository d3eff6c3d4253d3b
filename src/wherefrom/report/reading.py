"""How scores are to be read: what sign and size mean, and which errors stand beside them."""

from __future__ import annotations

import torch

from wherefrom.influence import estimand_words
from wherefrom.report.sections import ReportSection


def how_to_read(section: ReportSection) -> list[tuple[str, str]]:
    """Paragraphs with their first words apart."""
    if section.solved:
        return [("Sign and size.", _sign(section)), ("Two different errors.", _errors(section))]
    words = (
        "The ± is what the method states of the error of its own computation. Whether its scores agree with "
        f"retraining it cannot say: that is measured by {_retraining(section, ', and shown in the scatter.')}"
    )
    return [("Sign and size.", _sign(section)), ("Errors.", words)]


def _sign(section: ReportSection) -> str:
    scores, name = section.scores, section.scores.measurement
    method, meaning = section.settings.get("method") or "this method", estimand_words(scores.estimand)
    if not section.sized:
        turned = f", the other way round where a high {name} is good" if scores.higher_is_better else ""
        return (
            f"A score of {method} predicts {meaning}. High scores are called helpful and low ones harmful"
            f"{turned}."
        )
    sign, other = ("negative", "positive") if scores.higher_is_better else ("positive", "negative")
    effect = "lowers" if scores.higher_is_better else "raises"
    formula = (
        f"The score is ∇mᵀ C⁻¹ g: the gradient of the query's {name}, the inverse curvature of the training "
        "objective, and the gradient of the training example."
    )
    return (
        f"A {sign} score is helpful: removing the example {effect} the query's {name}. A {other} score is "
        f"harmful. {formula if section.solved else f'Scores of {method} predict {meaning}.'} Divided by "
        f"n = {scores.n_train:,} it is the predicted change when that one example is removed and the model "
        "trained again, written “removal” beside each score."
    )


def _errors(section: ReportSection) -> str:
    scores, layered = section.scores, section.scores.plan is not None
    if layered:
        known = (
            "with the full curvature, as far as it was estimated (see “Layer by layer”); no bound on it is "
            "known."
        )
    elif not bool(torch.isfinite(scores.bound).any()):
        known = "(an estimate; no bound on it is known)."
    else:
        most = "cannot exceed" if scores.bound_proven else "is not expected to exceed"
        known = (
            "(an upper bound where that is negligible, an estimate otherwise). Hover over a score for what "
            f"that error {most}."
        )
    whose = "formula's and the approximation's" if layered else "formula's, not the solver's"
    return (
        "The ± is the solver's: how far the number may be from the exact value of the formula "
        f"{known} It says nothing about the formula itself, which treats the model as linear in a small "
        "change of its training data. That error is measured by "
        f"{_retraining(section, f' and shown in the scatter: dots off the line are the {whose}.')}"
    )


def _retraining(section: ReportSection, shown: str) -> str:
    check = section.verification
    done = check is not None and check.predicted.size > 0
    return f"retraining{shown}" if done else "retraining, which was not done here."
