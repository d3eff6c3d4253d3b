"""What an intervention was predicted to do, and what retraining did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from wherefrom.evaluation.correlation import pearson, slope
from wherefrom.interventions.change import Change
from wherefrom.percentages import percentage

if TYPE_CHECKING:
    import pandas

# Shares of the change by which a prediction is off, and the noise that a change must exceed.
_EXACT, _ROUGH, _CLEAR = 0.1, 0.5, 2.0


@dataclass(frozen=True)
class Outcome:
    """An intervention carried out: predicted beside actual.

    Attributes:
        change: the prediction.
        actual: `(q,)`: measurement after retraining on the edited data minus after retraining on the given
            data, averaged over the seeds that converged; NaN if none did.
        noise: `(q,)`: its standard error: over seeds, or, for one seed, the most that the noise of training
            can be, `√2 · seed_spread`. Zero where training has no noise; NaN where that is not known.
        seeds: those that converged.
        baseline_gap: root mean square difference of the measurement between the given model and the recipe's
            on the given data.
        failed: by seed, why the retraining did not converge; these are in none of the arrays.
        seed_spread: `(q,)`: standard deviation of the measurement between trainings on the given data: with
            each of the seeds, and once more with another seed and order. `None` where it was not measured.
    """

    change: Change
    actual: Float[np.ndarray, " q"]
    noise: Float[np.ndarray, " q"]
    seeds: tuple[int, ...]
    baseline_gap: float
    failed: dict[int, str] = field(default_factory=dict)
    seed_spread: Float[np.ndarray, " q"] | None = None

    @property
    def predicted(self) -> Float[np.ndarray, " q"]:
        return self.change.values.double().numpy()

    @property
    def relative_error(self) -> float:
        """`‖predicted − actual‖ / ‖actual‖`; NaN if nothing changed or nothing converged."""
        size = float(np.linalg.norm(self.actual))
        return float(np.linalg.norm(self.predicted - self.actual)) / size if size > 0 else float("nan")

    def pearson(self) -> float:
        """Correlation over the queries; NaN for fewer than two or where either is constant."""
        return pearson(self.predicted, self.actual)

    def slope(self) -> float:
        """Least squares through the origin of actual on predicted: 1 means the sizes are right."""
        return slope(self.predicted, self.actual)

    @property
    def verdict(self) -> Literal["yes", "roughly", "no", "cannot tell"]:
        """Whether retraining agrees: to a tenth of the change, to a half, not at all, or nothing that the
        noise of training does not hide (differences within twice its size)."""
        if not self.seeds:
            return "cannot tell"
        size, noise = float(np.linalg.norm(self.actual)), _CLEAR * float(np.linalg.norm(self.noise))
        off = float(np.linalg.norm(self.predicted - self.actual))
        if not np.isfinite(noise) or size == 0:
            return "cannot tell"
        if off > max(noise, _ROUGH * size):
            return "no"
        if size <= noise:
            return "cannot tell"
        if off <= _EXACT * size:
            return "yes"
        return "roughly" if off <= _ROUGH * size else "cannot tell"

    @property
    def words(self) -> str:
        """What retraining says of the prediction, in a sentence or two."""
        if not self.seeds:
            reason = next(iter(self.failed.values()))
            return f"No retraining converged, so the prediction was not checked: {reason}"
        share = f"{percentage(self.relative_error)} of the change"
        said = {
            "yes": f"Retraining confirms the prediction: it is off by {share}.",
            "roughly": f"Retraining agrees in the main: the prediction is off by {share}.",
            "no": f"Retraining does not confirm the prediction: it is off by {share}.",
            "cannot tell": self._blurred(),
        }[self.verdict]
        if self.baseline_gap > float(np.sqrt(np.mean(self.actual**2))):
            said += (
                f" The recipe does not reproduce the given model (difference {self.baseline_gap:.2g} on the "
                "queries), which limits what this check can show."
            )
        if self.failed:
            said += f" {len(self.failed)} of {len(self.failed) + len(self.seeds)} seeds did not converge."
        return said

    def _blurred(self) -> str:
        if not np.linalg.norm(self.actual):
            return "Retraining changed nothing on these queries."
        if not np.isfinite(self.noise).all():
            return (
                "Retraining cannot tell: one more training on the given data, with another seed and order, "
                "did not converge, so the noise of training is not known."
            )
        size, noise = (float(np.sqrt(np.mean(v**2))) for v in (self.actual, self.noise))
        return (
            f"Retraining cannot tell: it changed a query by about {size:.2g}, and the noise of training "
            f"alone is {noise:.2g}. Use more seeds, a recipe without chance (full batches, a warm start), or "
            "a larger edit."
        )

    def summary(self) -> dict[str, Any]:
        """Headline numbers as JSON values."""
        return {
            **self.change.summary(),
            "actual_mean_change": float(np.mean(self.actual)),
            "relative_error": self.relative_error,
            "pearson": self.pearson(),
            "slope": self.slope(),
            "seeds": list(self.seeds),
            "failed": {str(seed): reason for seed, reason in self.failed.items()},
            "baseline_gap": self.baseline_gap,
            "noise": float(np.sqrt(np.mean(self.noise**2))),
            "retraining_agrees": self.verdict,
            "verdict": self.words,
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row per query: that of the prediction, and `actual, noise`."""
        table = self.change.to_pandas()
        table["actual"], table["noise"] = self.actual, self.noise
        return table

    def __repr__(self) -> str:
        return (
            f"Outcome({self.change.words_done}; predicted mean {float(np.mean(self.predicted)):+.4g}, actual "
            f"{float(np.mean(self.actual)):+.4g}, relative error {self.relative_error:.2g}, "
            f"pearson={self.pearson():.4f})"
        )
