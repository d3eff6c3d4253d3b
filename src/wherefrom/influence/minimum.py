"""Is `θ̂` a minimum of the objective? The question that decides what the scores mean."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature import Curvature
from wherefrom.linalg import Spectrum
from wherefrom.percentages import percentage
from wherefrom.task import Objective

# Below this the leftover gradient is smaller than what leaving one example out changes.
_AT_MINIMUM = 1.0
# Below this it is a small part of a single example's gradient.
_NEAR_MINIMUM = 0.05


@dataclass(frozen=True)
class MinimumCheck:
    """What was measured at `θ̂`.

    Attributes:
        gradient_norm: `‖∇J(θ̂)‖`, regulariser included.
        typical_gradient: root mean square of `‖g_i‖`, of at most 512 examples.
        relative_gradient: their ratio.
        removals: `n · ‖∇J‖ / rms‖g_i‖`: the leftover gradient in units of what removing one example changes.
        smallest_curvature: smallest Ritz value of `C`, or the proven lower bound if that is larger.
        largest_curvature: largest Ritz value.
        verdict: `"minimum"`, `"near"` or `"not a minimum"`.
        words: the verdict in plain words.
    """

    gradient_norm: float
    typical_gradient: float
    relative_gradient: float
    removals: float
    smallest_curvature: float
    largest_curvature: float
    verdict: str
    words: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def check_minimum(
    objective: Objective,
    curvature: Curvature,
    spectrum: Spectrum,
    mean: Float[Tensor, " p"],
    rms: float,
    damping: float = 0.0,
) -> MinimumCheck:
    """Gradient and curvature at `θ̂`, and what they mean for influence.

    Args:
        objective: of the fit.
        curvature: in use, without damping.
        spectrum: a Lanczos run on it.
        mean: of the training gradients.
        rms: their typical norm.
        damping: `λ` that scores are to be read with; 0 where it is part of their error.
    """
    gradient = mean + objective.regulariser.gradient().double()
    norm = float(gradient.norm())
    relative = norm / rms if rms > 0 else 0.0
    removals = objective.n * relative
    smallest = max(spectrum.smallest, curvature.operator.lower_bound)
    negative = curvature.is_hessian and smallest < -1e-6 * max(spectrum.largest, 1e-30)
    if negative:
        verdict = "not a minimum"
        words = (
            f"Not a minimum: the Hessian has the negative eigenvalue {smallest:.3g}. Scores describe a "
            "damped quadratic model around these "
            "parameters, not retraining to a nearby optimum; trust the retraining check above the numbers."
        )
    elif removals <= _AT_MINIMUM:
        verdict = "minimum"
        words = (
            f"At a minimum: the gradient left over is {removals:.2g} times what removing a single example "
            "changes: next to nothing, as the first-order effect of changing the training data needs it"
            + (
                f", with directions of less curvature than the damping {damping:.3g} held back."
                if damping
                else "."
            )
        )
    elif relative <= _NEAR_MINIMUM:
        verdict = "near"
        words = (
            f"Near a minimum: the gradient left over is {percentage(relative)} of a typical example's, but "
            f"{removals:.3g} times what removing one "
            "example changes. Whether rankings and sizes agree with retraining, this does not say: only the "
            "retraining check (verify) measures it."
        )
    else:
        verdict = "not a minimum"
        words = (
            f"Not a minimum: the gradient left over is {percentage(relative)} of a typical example's "
            f"({removals:.3g} times what removing one example "
            "changes). Training longer, or with weight decay declared, makes scores mean more; trust the "
            "retraining check."
        )
    return MinimumCheck(norm, rms, relative, removals, smallest, spectrum.largest, verdict, words)
