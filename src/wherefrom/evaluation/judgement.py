"""What retraining says of the scores: yes, ranking only, no, or cannot tell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from wherefrom.evaluation.noise import CHANCE, agreement_within, centred, shares_a_shift
from wherefrom.plain_text import count_of

if TYPE_CHECKING:
    from wherefrom.evaluation.verification import Verification

VerdictValue = Literal["yes", "ranking only", "no", "cannot tell"]

# Fewer removals than this say little, however well they agree.
_FEW = 5
# Retraining whose noise lets perfect predictions reach this correlation is as good as without noise; below
# the second number it cannot refute predictions.
_CLEAR, _BLUNT = 0.95, 0.8
_SIZES, _ORDER, _TENDENCY = 0.95, 0.8, 0.5
_MOST_SEEDS = 1000
_SMALLER_ONES = "the order of the smaller ones is not resolved."
_NO_SIZE = "They have no size to compare."
# A tendency that random assignments show as often as this may be chance.
_LIKELY = 0.05


@dataclass(frozen=True)
class Judgement:
    """What retraining says of the scores.

    Attributes:
        verdict: `"yes"` (order and size), `"ranking only"`, `"no"`, or `"cannot tell"`: retraining does not
            resolve the effects.
        level: `"good"`, `"fair"`, `"poor"` or `"none"` (undecided).
        answer: the verdict as people read it.
        words: a few sentences.
    """

    verdict: VerdictValue
    level: str
    answer: str
    words: str


_LEVELS = {"yes": "good", "ranking only": "fair", "no": "poor", "cannot tell": "none"}


def judge(check: Verification) -> Judgement:
    """The verdict, from all pairs: size by Pearson correlation and slope, order by Spearman's too.

    Where the noise of training is not small beside the effects, only what holds between the removals of one
    query counts, and an agreement must be one that chance does not give. A disagreement is held against the
    scores only if retraining could have confirmed them.
    """
    pearson = check.pearson()
    if not np.isfinite(pearson):
        return _made("cannot tell", "Retraining gave no variation to compare with.")
    shifted = shares_a_shift(check.predicted, check.actual)
    within, chance = agreement_within(check.predicted, check.actual)
    size = check.slope() if check.sized else None
    verdict, words = _agreement(pearson, check.spearman(), size, chance)
    clear = check.ceiling >= _CLEAR and not shifted
    if clear and (verdict != "no" or not check.noise.any()):
        return _made(verdict, words + _small(check) + _gap(check))
    if within >= _TENDENCY and chance <= CHANCE:
        order = "the order" if within >= _ORDER else "the tendency"
        words = f"Retraining confirms {order} of the scores (correlation {within:.2f} between the removals)"
        words += f", not their size: {_why(check, shifted)}" if check.sized else f". {_NO_SIZE}"
        return _made("ranking only", words + _small(check))
    if shifted or check.ceiling < _BLUNT:
        return _made("cannot tell", _blurred(check, shifted))
    if not clear:
        words += (
            " The noise of training counts too: perfect predictions would reach a correlation of "
            f"{check.ceiling:.2f}."
        )
    return _made(verdict, words + _small(check) + _gap(check))


def _made(verdict: VerdictValue, words: str) -> Judgement:
    return Judgement(verdict, _LEVELS[verdict], verdict.capitalize(), words)


def _agreement(
    pearson: float, spearman: float, slope: float | None, chance: float
) -> tuple[VerdictValue, str]:
    """By the slope of sizes; `None` where the scores have none."""
    ordered = spearman >= 0.9
    if pearson >= _ORDER and slope is None:
        found = "the order of the scores." if ordered else f"the large scores; {_SMALLER_ONES}"
        return "ranking only", f"Retraining confirms {found} {_NO_SIZE}"
    if pearson >= _SIZES and slope is not None and 0.8 <= slope <= 1.25:
        if ordered:
            return "yes", "Retraining confirms the scores, in order and in size."
        return (
            "ranking only",
            f"Retraining confirms the large scores, in size too; {_SMALLER_ONES}",
        )
    if pearson >= _ORDER:
        if ordered:
            return (
                "ranking only",
                "Retraining confirms the order of the scores; read their size with the slope in mind.",
            )
        return (
            "ranking only",
            f"Retraining confirms the large scores; {_SMALLER_ONES} Read their size with the slope in mind.",
        )
    if pearson >= _TENDENCY and chance > _LIKELY:
        return (
            "cannot tell",
            f"Retraining agrees in tendency (correlation {pearson:.2f}), which chance may give with so few "
            "removals: remove more examples to decide.",
        )
    if pearson >= _TENDENCY:
        return (
            "ranking only",
            "Retraining agrees in tendency only: use the scores to find candidates, retrain to decide.",
        )
    return "no", "Retraining does not confirm the scores: do not rely on them for this model."


def _small(check: Verification) -> str:
    count = len(check.removed)
    return "" if count >= _FEW else f" The check is small: {count_of(count, 'removal')}."


def _gap(check: Verification) -> str:
    scale = float(np.sqrt(np.mean(check.actual**2)))
    if not check.baseline_gap > scale:
        return ""
    return (
        f" The recipe does not reproduce the given model (difference {check.baseline_gap:.2g} on the "
        f"queries, against typical changes of {scale:.2g}), which limits what this check can show."
    )


def _why(check: Verification, shifted: bool) -> str:
    """What stands against reading sizes."""
    if shifted:
        return "every removal shifts a query by about the same amount, which is the training on all the data."
    return (
        "training twice on all the data, with another seed and order, changes a query by about "
        f"{_typical(check.noise):.2g}, and removing an example changed it by {_typical(check.actual):.2g}."
    )


def _blurred(check: Verification, shifted: bool) -> str:
    """Why retraining cannot tell, and what to do."""
    if not np.isfinite(check.noise).all():
        said = (
            "The noise of training is not known: one more training on all the data, with another seed and "
            "order, did not converge."
        )
    elif not check.noise.any():
        said = (
            "Every removal shifts a query by about the same amount, whatever was removed: the training on "
            "all the data ended elsewhere than all others."
        )
    else:
        size, noise = _typical(check.actual), _typical(check.noise)
        said = (
            "The effect of one example is not clear of the noise of training: two trainings on all the data "
            f"differ by about {noise:.2g} on a query (one pair of them, so it may be more), and removing an "
            f"example changed it by {size:.2g}."
            if len(check.seeds) == 1
            else f"The effect of one example is not clear of the noise of training: over {len(check.seeds)} "
            f"seeds removing an example changed a query by {size:.2g} ± {noise:.2g}, and the seeds do not "
            "agree enough on which removal matters."
        )
        if shifted:
            said += (
                " Every removal shifts a query by about the same amount, which is the noise of the training "
                "on all the data and not the examples."
            )
    seeds = _seeds_needed(check)
    wanted = "more seeds" if seeds is None else f"more seeds ({seeds} if the predictions are right)"
    return (
        f"{said} This says nothing for or against the scores. To decide: {wanted}, a recipe without chance "
        "(full batches, or a warm start from the given parameters until it settles), or larger groups "
        "(wherefrom change --remove … --retrain)."
    )


def _seeds_needed(check: Verification) -> str | None:
    """How many would lift effects of the predicted size above the noise."""
    noise = float(np.mean(check.noise**2)) * len(check.seeds) / 2
    size = float(np.mean(centred(check.predicted) ** 2))
    if not (math.isfinite(noise) and noise > 0 and size > 0):
        return None
    needed = math.ceil(noise / size * _BLUNT**2 / (1 - _BLUNT**2))
    if needed <= len(check.seeds):
        return None
    return f"about {needed:,}" if needed <= _MOST_SEEDS else f"more than {_MOST_SEEDS:,}"


def _typical(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
