"""What the scores predicted against what retraining did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from wherefrom.evaluation.correlation import pearson, slope, spearman
from wherefrom.evaluation.judgement import Judgement, judge
from wherefrom.evaluation.noise import reliability

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Verification:
    """Predicted and actual change of every query's measurement for every removed example.

    Attributes:
        removed: training indices, `(r,)`, each removed alone.
        predicted: `(r, q)`.
        actual: `(r, q)`: retrained without the example minus retrained with all, averaged over seeds.
        noise: `(r, q)`: standard error of `actual`: over seeds, or, for one seed, the most that the noise of
            training can be, `√2 · seed_spread`. Zero where training has no noise, NaN where it is not known.
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
        seed_spread: `(q,)`: standard deviation of the measurement between trainings on all the data: with
            each of the seeds, and once more with another seed and the examples in the reverse order. `None`
            where that was not measured.
        by_seed: `(s, r, q)`: the changes for each seed.
        identity: fingerprints of the fit, the queries and the measurement.
        sized: whether the predictions have a size; similarities are an order only.
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
    seed_spread: Float[np.ndarray, " q"] | None = None
    by_seed: Float[np.ndarray, "s r q"] | None = None
    identity: dict[str, str] = field(default_factory=dict)
    sized: bool = True

    @property
    def estimand(self) -> str:
        runs = "one fixed-seed run" if len(self.seeds) == 1 else f"the mean of {len(self.seeds)} seeds"
        return f"leave-one-out change of the {self.measurement}, {runs}"

    def pearson(self, query: int | None = None) -> float:
        """Pearson correlation of predicted and actual, over all pairs or for one query; NaN if either is
        constant."""
        return pearson(*self._pairs(query))

    def spearman(self, query: int | None = None) -> float:
        """Spearman rank correlation, over all pairs or for one query."""
        return spearman(*self._pairs(query))

    def slope(self, query: int | None = None) -> float:
        """Least-squares slope through the origin of actual against predicted: 1 means the sizes are right
        too."""
        return slope(*self._pairs(query))

    def corrected_slope(self) -> float | None:
        """The slope of actual against the corrected predictions; `None` without these."""
        return None if self.corrected is None else slope(self.corrected.ravel(), self.actual.ravel())

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
            "noise": _root_mean_square(self.noise),
            "seed_spread": None if self.seed_spread is None else _root_mean_square(self.seed_spread),
            "noise_ceiling": self.ceiling,
            "verdict": self.judgement().verdict,
        }

    @property
    def ceiling(self) -> float:
        """The correlation that perfect predictions would reach against retraining with this much noise, by a
        cautious estimate: 1 without noise, 0 where it may all be noise."""
        return reliability(self.actual, self.noise, self.by_seed) ** 0.5 if len(self.removed) else 0.0

    @property
    def words(self) -> str:
        """The verdict in a few sentences."""
        return self.judgement().words

    def judgement(self) -> Judgement:
        """What this says of the scores: yes, ranking only, no, or cannot tell; see `judge`."""
        return judge(self)

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
            f"spearman={self.spearman():.4f}, slope={self.slope():.3f}, failed={len(self.failed)}, "
            f"verdict={self.judgement().verdict!r})"
        )

    def _pairs(self, query: int | None) -> tuple[np.ndarray, np.ndarray]:
        if query is None:
            return self.predicted.ravel(), self.actual.ravel()
        return self.predicted[:, query], self.actual[:, query]


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values.size else 0.0
