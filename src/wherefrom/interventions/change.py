"""What an intervention is predicted to do to a measurement, with its errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from wherefrom.influence import ANY, Range, Resolution, Trust, resolve_change, worst
from wherefrom.influence.trust import Level
from wherefrom.percentages import percentage

if TYPE_CHECKING:
    import pandas

# Shares of the predicted change that another step towards the new optimum would add.
_SMALL, _LARGE = 0.1, 0.5


@dataclass(frozen=True)
class Change:
    """`m_q(θ') − m_q(θ̂)` for every query, `θ'` the parameters after the intervention.

    Attributes:
        values: `(q,)`: the prediction of the order asked for.
        first: `(q,)`: that of first order, `∇mᵀ Δθ` with one solve at `θ̂`: the sum of single scores over `n`
            for a removal.
        error, bound: `(q,)`: the solver's error in `∇mᵀ Δθ`, expected and at most; infinite where unknown.
        remaining: `(q,)`: what one more step with the curvature at `θ̂`, from the predicted parameters
            towards the optimum of the edited objective, would add to `values`, the measurement not
            linearised: an estimate of the error that no solver makes, that of stopping after one step.
            Damping keeps it from vanishing.
        parameters: `(p,)`: `Δθ`.
        exact_curvature: whether the curvature is the objective's Hessian. If it is not (a Gauss-Newton matrix
            of a network, EK-FAC), `remaining` sees only the part of the error in the directions this
            curvature knows, and is too small.
        order: `"first"`, `"second"`, `"newton"` or `"optimum"`.
        reduction: `"mean"` or `"sum"`, see `EditedObjective`.
        measurement: name of `m`.
        converged: whether every solve converged; `reason` if not.
        words_done: the intervention in words.
        settings: everything that defines the prediction, as JSON values.
        before: `(q,)`: the measurement now; `None` where it is not known.
        range: what the measurement can be.
        trust: how far the fit behind the prediction may be trusted; no sentence here says more.
    """

    values: Float[Tensor, " q"]
    first: Float[Tensor, " q"]
    error: Float[Tensor, " q"]
    bound: Float[Tensor, " q"]
    remaining: Float[Tensor, " q"]
    parameters: Float[Tensor, " p"]
    exact_curvature: bool
    order: str
    reduction: str
    measurement: str
    converged: bool
    reason: str
    words_done: str
    settings: dict[str, Any] = field(default_factory=dict)
    before: Float[Tensor, " q"] | None = None
    range: Range = ANY
    trust: Trust | None = None

    def resolution(self, q: int) -> Resolution:
        """Whether the predicted change of query `q` stands out of its errors: the solver's, and what one more
        step would add."""
        return self._resolution(lambda values: values[q], self.measurement)

    def mean_resolution(self) -> Resolution:
        """The same of the mean over the queries: their errors do not cancel for certain, and are averaged."""
        return self._resolution(Tensor.mean, f"mean {self.measurement}")

    def _resolution(self, of: Callable[[Tensor], Tensor], measurement: str) -> Resolution:
        return resolve_change(
            float(of(self.values)),
            {
                "the solver": float(of(self.error)),
                "stopping after this step": abs(float(of(self.remaining))),
            },
            now=None if self.before is None else float(of(self.before)),
            range=self.range if self.order in ("first", "second") else ANY,
            measurement=measurement,
        )

    def __len__(self) -> int:
        return len(self.values)

    @property
    def left_over(self) -> float:
        """`‖remaining‖ / ‖values‖`: how much of the change is still to come after the step taken."""
        return _ratio(self.remaining, self.values)

    @property
    def beyond_first_order(self) -> float:
        """`‖values − first‖ / ‖values‖`: what first order misses, as far as this order sees it."""
        return _ratio(self.values - self.first, self.values)

    @property
    def level(self) -> Level:
        """`"good"`, `"fair"` or `"poor"`, by `left_over`; never `"good"` without the exact curvature, and
        never better than `trust`."""
        if not self.converged or not self.left_over <= _LARGE:
            return "poor"
        own: Level = "good" if self.left_over <= _SMALL and self.exact_curvature else "fair"
        return own if self.trust is None else worst(own, self.trust.level)

    @property
    def words(self) -> str:
        """Whether to trust the prediction, in a sentence or two."""
        if not self.converged:
            return f"The solver did not converge, so the prediction is not to be used. {self.reason}"
        share = percentage(self.left_over)
        known = "" if self.trust is not None and self.trust.retraining else ": retrain to know"
        said = (
            f"One more step would change the prediction by {share}: "
            + {
                "good": "the edit is small enough for this order.",
                "fair": f"take its sign as likely and its size as rough{known}.",
                "poor": f"the edit is too large for this order{known}."
                if not self.left_over <= _LARGE
                else "the step is small, but the fit behind it is not to be trusted for signs or sizes"
                f"{known}.",
            }[self.level]
        )
        if not self.exact_curvature:
            said += " The curvature is an approximation of the model's own, so that may be too little."
        if self.order != "first" and self.beyond_first_order > _SMALL:
            said += (
                f" First order alone is off by {percentage(self.beyond_first_order)}: do not add up single "
                "scores for this group."
            )
        return said

    def to_pandas(self) -> pandas.DataFrame:
        """One row per query: `query, predicted, first_order, estimate, bound, remaining, resolved,
        reason`."""
        import pandas

        found = [self.resolution(q) for q in range(len(self))]
        return pandas.DataFrame(
            {
                "query": range(len(self)),
                "predicted": self.values.numpy(),
                "first_order": self.first.numpy(),
                "error": self.error.numpy(),
                "bound": self.bound.numpy(),
                "remaining": self.remaining.numpy(),
                "resolved": [one.resolved for one in found],
                "reason": [one.reason for one in found],
            }
        )

    def summary(self) -> dict[str, Any]:
        """Headline numbers as JSON values."""
        found = [self.resolution(q) for q in range(len(self))]
        return {
            "intervention": self.words_done,
            "order": self.order,
            "reduction": self.reduction,
            "measurement": self.measurement,
            "mean_change": float(self.values.mean()),
            "largest_change": float(self.values.abs().max()),
            "left_over": self.left_over,
            "beyond_first_order": self.beyond_first_order,
            "level": self.level,
            "words": self.words,
            "converged": self.converged,
            "resolved": [one.resolved for one in found],
            "reasons": [one.reason for one in found],
        }

    def __repr__(self) -> str:
        return (
            f"Change({self.words_done}; {len(self)} queries, {self.order} order, mean "
            f"{float(self.values.mean()):+.4g}, left over {percentage(self.left_over)})"
        )


def _ratio(part: Float[Tensor, " q"], whole: Float[Tensor, " q"]) -> float:
    size = float(whole.double().norm())
    return float(part.double().norm()) / size if size > 0 else 0.0
