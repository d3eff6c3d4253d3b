"""What the scores predicted against what retraining did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

if TYPE_CHECKING:
    import pandas

# Fewer removals than this say little, however well they agree.
_FEW = 5


@dataclass(frozen=True)
class Judgement:
    """What retraining says of the scores: `level` is `"good"`, `"fair"`, `"poor"` or `"none"` (undecided)."""

    level: str
    answer: str
    words: str


@dataclass(frozen=True)
class Verification:
    """Predicted and actual change of every query's measurement for every removed example.

    Attributes:
        removed: training indices, `(r,)`, each removed alone.
        predicted: `(r, q)`.
        actual: `(r, q)`: retrained without the example minus retrained with all, averaged over seeds.
        noise: `(r, q)`: standard error of `actual` over seeds; zeros for one seed.
        seeds: used for every retraining.
        reduction: whether the recipe averages its loss over the examples left (`"mean"`) or keeps the weights
            `1/n` (`"sum"`).
        baseline_gap: root mean square difference of the measurement between the given model and the recipe's
            on all data: a recipe that does not reproduce the model shows here.
        failed: removed examples whose retraining did not converge, with the reason; they are in none of the
            arrays.
        measurement: what was measured.
        corrected: `(r, q)`: what a Newton step predicts, first order corrected by the leverage
            (`leave_one_out`); `None` where that has no closed form or the solver makes it dear.
        estimand: what is compared: the expected change over the seeds given.
    """

    removed: Int[np.ndarray, " r"]
    predicted: Float[np.ndarray, "r q"]
    actual: Float[np.ndarray, "r q"]
    noise: Float[np.ndarray, "r q"]
    seeds: tuple[int, ...]
    reduction: str
    baseline_gap: float
    failed: dict[int, str] = field(default_factory=dict)
    measurement: str = "loss"
    corrected: Float[np.ndarray, "r q"] | None = None

    @property
    def estimand(self) -> str:
        runs = "one fixed-seed run" if len(self.seeds) == 1 else f"the mean of {len(self.seeds)} seeds"
        return f"leave-one-out change of the {self.measurement}, {runs}"

    def pearson(self, query: int | None = None) -> float:
        """Pearson correlation of predicted and actual, over all pairs or for one query; NaN if either is
        constant."""
        return _correlation(stats.pearsonr, *self._pairs(query))

    def spearman(self, query: int | None = None) -> float:
        """Spearman rank correlation, over all pairs or for one query."""
        return _correlation(stats.spearmanr, *self._pairs(query))

    def slope(self, query: int | None = None) -> float:
        """Least-squares slope through the origin of actual against predicted: 1 means the sizes are right
        too."""
        return _slope(*self._pairs(query))

    def corrected_slope(self) -> float | None:
        """The slope of actual against the corrected predictions; `None` without these."""
        return None if self.corrected is None else _slope(self.corrected.ravel(), self.actual.ravel())

    def summary(self) -> dict[str, Any]:
        """Headline numbers as JSON values."""
        return {
            "pearson": self.pearson(),
            "spearman": self.spearman(),
            "slope": self.slope(),
            "corrected_slope": self.corrected_slope(),
            "removed": len(self.removed),
            "queries": int(self.predicted.shape[1]),
            "failed": len(self.failed),
            "seeds": list(self.seeds),
            "reduction": self.reduction,
            "baseline_gap": self.baseline_gap,
            "estimand": self.estimand,
        }

    @property
    def words(self) -> str:
        """The verdict in a few sentences."""
        return self.judgement().words

    def judgement(self) -> Judgement:
        """The verdict, from all pairs: size by Pearson correlation and slope, order by Spearman's too."""
        pearson, slope = self.pearson(), self.slope()
        if not np.isfinite(pearson):
            return Judgement("none", "Undecided", "Retraining gave no variation to compare with.")
        ordered = self.spearman() >= 0.9
        if pearson >= 0.95 and 0.8 <= slope <= 1.25:
            level, answer = ("good", "Yes") if ordered else ("fair", "In size")
            verdict = (
                "Retraining confirms the scores, in order and in size."
                if ordered
                else "Retraining confirms the scores in size; the order of the smaller ones is not resolved."
            )
        elif pearson >= 0.8:
            level, answer = ("fair", "In order") if ordered else ("fair", "The large ones")
            verdict = (
                "Retraining confirms the order of the scores; read their size with the slope in mind."
                if ordered
                else "Retraining confirms the large scores; the order of the smaller ones is not resolved. "
                "Read their size with the slope in mind."
            )
        elif pearson >= 0.5:
            level, answer = "fair", "In tendency"
            verdict = (
                "Retraining agrees in tendency only: use the scores to find candidates, retrain to decide."
            )
        else:
            level, answer = "poor", "No"
            verdict = "Retraining does not confirm the scores: do not rely on them for this model."
        count = len(self.removed)
        if count < _FEW:
            verdict += f" The check is small: {count} removal{'' if count == 1 else 's'}."
        scale = float(np.sqrt(np.mean(self.actual**2)))
        if self.baseline_gap > scale:
            verdict += (
                f" The recipe does not reproduce the given model (difference {self.baseline_gap:.2g} on the "
                "queries, against typical changes of "
                f"{scale:.2g}), which limits what this check can show."
            )
        return Judgement(level, answer, verdict)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per removed example and query."""
        import pandas

        r, q = self.predicted.shape
        return pandas.DataFrame(
            {
                "removed": np.repeat(self.removed, q),
                "query": np.tile(np.arange(q), r),
                "predicted": self.predicted.ravel(),
                "actual": self.actual.ravel(),
                "noise": self.noise.ravel(),
            }
        )

    def __repr__(self) -> str:
        return (
            f"Verification(removed={len(self.removed)}, queries={self.predicted.shape[1]}, "
            f"pearson={self.pearson():.4f}, "
            f"spearman={self.spearman():.4f}, slope={self.slope():.3f}, failed={len(self.failed)})"
        )

    def _pairs(self, query: int | None) -> tuple[np.ndarray, np.ndarray]:
        if query is None:
            return self.predicted.ravel(), self.actual.ravel()
        return self.predicted[:, query], self.actual[:, query]


def _slope(predicted: np.ndarray, actual: np.ndarray) -> float:
    energy = float(predicted @ predicted)
    return float(predicted @ actual) / energy if energy > 0 else float("nan")


def _correlation(function: Any, a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(function(a, b).statistic)
