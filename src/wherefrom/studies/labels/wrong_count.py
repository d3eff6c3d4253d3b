"""How many labels are wrong: an estimate between two ends, or why it cannot be told.

No model of the labels alone can tell noise from examples that are hard: a label that a model cannot predict
may be right. What can be told is this. Where the model is surest, labels that differ from its class are
mostly wrong (but for 1 % of the examples), and wrong labels are hardly rarer among harder ones: that gives
the lower end. A wrong label mostly differs from the class that the model would give without having seen it,
and so do hard but right ones: that gives the upper end. Both ends are widened by the chance of a sample
(Clopper & Pearson 1934).
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from scipy.stats import beta
from torch import Tensor

from wherefrom.studies.labels.disagreement import Disagreement, mean_confidence, most_confident

LEVEL = 0.95
# Share of the examples of each predicted class that the model is surest of.
_SUREST = 0.1
# Of those, the share on which it may itself be wrong.
_SURE_ERRORS = 0.01
# Wider than this share of the examples, the two ends say too little to call it an estimate.
_WIDEST = 0.35
# Left-out predictions that had to be held back, as a share, beyond which the upper end is not to be trusted.
_MOST_HELD = 0.01


@dataclass(frozen=True)
class WrongCount:
    """An estimated number of wrong labels.

    Attributes:
        examples: training examples in all.
        estimate: of the number of wrong labels among them: if labels were wrong everywhere as often as among
            the examples the model is surest of; `None` where it cannot be told.
        low, high: ends of its interval, in examples; `None` where not even they can be told. They rest on
            assumptions (see the module) and not on chance alone; `docs/benchmarks-labels.md` says how often
            they held.
        reason: why it cannot be told, and what would help; empty where it can.
    """

    examples: int
    estimate: int | None
    low: int | None
    high: int | None
    reason: str = ""

    @property
    def told(self) -> bool:
        return self.estimate is not None

    @property
    def words(self) -> str:
        """One or two sentences for people."""
        if self.estimate is not None:
            share = 100 * self.estimate / self.examples
            return (
                f"Estimated number of wrong labels: {self.estimate:,} of {self.examples:,} ({share:.1f} %), "
                f"between {self.low:,} and {self.high:,}."
            )
        return f"Number of wrong labels: cannot tell. {self.reason}"


def count_wrong(
    given: Int[Tensor, " n"],
    confidence: Float[Tensor, "n c"],
    left_out: Float[Tensor, "n c"],
    found: Disagreement,
    *,
    probabilities: bool,
    held: int,
    approximate: bool,
) -> WrongCount:
    """The estimate for all training examples.

    Args:
        given: class numbers.
        confidence, left_out: of the classes, by the model as it is and without the example.
        found: how often labels and model disagree.
        probabilities: whether `confidence` holds probabilities rather than scores.
        held: left-out predictions that were held back.
        approximate: whether left-out predictions are approximations that nothing vouches for: the model is no
            linear head, or the curvature not the whole.
    """
    n = len(given)
    reason = _untrusted(found, held, approximate)
    if reason:
        return WrongCount(n, None, None, None, reason)
    # The model as it is leans to the labels it was trained on, so the lower end errs towards too few.
    sure = most_confident(confidence, _SUREST)
    low, _ = binomial_interval(int((confidence.argmax(1) != given)[sure].sum()), len(sure))
    low = max(0.0, low - _SURE_ERRORS)
    _, high = binomial_interval(found.left_out, n)
    mean = mean_confidence(confidence, left_out, probabilities)
    sure = most_confident(mean, _SUREST)
    share = float((mean.argmax(1) != given)[sure].double().mean())
    ends = int(low * n), min(n, -int(-high * n // 1))
    if high - low > _WIDEST:
        return WrongCount(n, None, *ends, _wide(n, *ends))
    return WrongCount(n, min(max(round(share * n), ends[0]), ends[1]), *ends)


def binomial_interval(hits: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact confidence interval of a probability (Clopper & Pearson 1934)."""
    outside = (1.0 - level) / 2
    low = float(beta.ppf(outside, hits, trials - hits + 1)) if hits else 0.0
    high = float(beta.ppf(1.0 - outside, hits + 1, trials - hits)) if hits < trials else 1.0
    return low, high


def _untrusted(found: Disagreement, held: int, approximate: bool) -> str:
    """Why the predictions for left-out examples do not serve; empty if they do."""
    if found.left_out > found.examples / 2:
        return (
            "The model differs from more than half of the labels, so that its answers cannot serve to judge "
            "them. A better model would help."
        )
    if found.too_good:
        return (
            f"The answers predicted without an example differ from its label for "
            f"{100 * found.left_out / found.examples:.0f} % of the training examples, while the model errs "
            f"on {100 * found.on_validation / found.validation:.0f} % of the validation examples: it learnt "
            "its labels by heart. Train with more weight decay or for fewer steps."
        )
    if approximate and not found.validation:
        return (
            "The answers predicted without an example are approximate for this model and solver, and only "
            "validation examples can show whether they are to be trusted: pass some."
        )
    if held > _MOST_HELD * found.examples:
        return (
            f"For {held:,} of {found.examples:,} examples the answer without the example could not be "
            "predicted. Train with more weight decay."
        )
    return ""


def _wide(n: int, low: int, high: int) -> str:
    return (
        f"Anything from {low:,} to {high:,} of {n:,} would fit: the model errs too often to tell wrong "
        "labels from hard examples. A better model would narrow it."
    )


def not_all_looked_at(looked_at: int, n: int) -> WrongCount:
    """For a part of the training set, which was likely chosen because it looks wrong."""
    reason = f"Only {looked_at:,} of {n:,} training examples were looked at, and all are needed."
    return WrongCount(n, None, None, None, reason)


def not_converged(n: int) -> WrongCount:
    """For solves that did not converge, on which the left-out predictions rest."""
    return WrongCount(n, None, None, None, "Some solves did not converge; give the solver more steps.")


def no_left_out(n: int, method: str) -> WrongCount:
    """For a method that does not say what the model would be without an example."""
    reason = f"{method} does not predict the model's answer without an example; wherefrom.Influence does."
    return WrongCount(n, None, None, None, reason)
