"""What is said of gradients in words: the verdicts at the head, and what the scalar is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wherefrom.report import Verdict
from wherefrom.report.numbers import number, percent
from wherefrom.studies.geometry.layer_rows import quantiles, violations

if TYPE_CHECKING:
    from wherefrom.linalg import Estimate
    from wherefrom.studies.geometry import GradientBounds, GradientNorms

_SCALARS = {
    "margin": "the margin: the log-odds of the true label",
    "loss": "the loss",
    "logit": "the score of the true class",
}
# A step in the input whose effect people can picture, in units of the input.
_STEP = 0.1


def what_it_is(scalar: str) -> str:
    """The scalar `f` in words."""
    return _SCALARS.get(scalar, f"output {scalar}" if scalar.isdigit() else scalar)


def short_name(scalar: str) -> str:
    """The scalar `f` in two words."""
    return {"margin": "the margin", "loss": "the loss", "logit": "the true class's score"}.get(
        scalar, f"output {scalar}" if scalar.isdigit() else scalar
    )


def bound_verdict(bounds: GradientBounds | None, reason: str) -> Verdict:
    """Whether gradients in the parameters bound those in the input here."""
    question = "Does the gradient in the parameters bound that in the input?"
    if bounds is None:
        words = (
            f"The inequality between the two gradients is not proved for this network. {_sentence(reason)}"
        )
        return Verdict(question, "none", "Not proved here", words)
    n, above = len(bounds.left), violations(bounds)
    ratio = quantiles(bounds.ratio, 0.5, 1.0)
    figures = (("typical example", percent(ratio[0])), ("closest", percent(ratio[1])))
    if above:
        words = (
            f"For {above:,} of {n:,} examples the left side came out above the right. The theorem rules that "
            "out, so a spectral norm has not converged: run it again with more iterations."
        )
        return Verdict(question, "poor", "Not settled", words, figures)
    words = (
        f"On each of the {n:,} examples. While the layers keep their norms, the one cannot become small "
        "without the other becoming small too. So much of it the bound reaches:"
    )
    if reason:
        return Verdict(question, "fair", "Yes, by some layers", words, figures)
    return Verdict(question, "good", "Yes", words, figures)


def steepness_verdict(norms: GradientNorms, scalar: str) -> Verdict:
    """How steep the scalar is in the input."""
    middle, largest = quantiles(norms.inputs, 0.5, 1.0)
    words = (
        f"‖∇ₓf‖ of the typical example. A step of length {_STEP:g} in the input, in the worst direction, "
        f"changes {short_name(scalar)} by about {number(_STEP * middle, 2)}, and by "
        f"{number(_STEP * largest, 2)} on the steepest example."
    )
    figures = (
        ("steepest example", number(largest, 3)),
        ("typical, in the parameters", number(quantiles(norms.parameters, 0.5)[0], 3)),
    )
    return Verdict("How steep is it in the input?", "none", number(middle, 3), words, figures)


def complexity_verdict(complexity: Estimate) -> Verdict:
    """The geometric complexity and its error."""
    exact = complexity.standard_error == 0
    words = (
        "Geometric complexity: the mean over examples of the squared gradients of all outputs in the input. "
        "It has no absolute scale: compare it between models on the same data, where lower is smoother."
    )
    error = "none: computed exactly" if exact else f"± {number(complexity.standard_error, 2)}"
    return Verdict(
        "How much do the outputs vary with the input?",
        "none",
        number(complexity.value, 3),
        words,
        (("standard error", error),),
    )


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."
