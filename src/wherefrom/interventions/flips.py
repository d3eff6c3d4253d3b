"""The answers for a set of queries: read, confirmed by retraining, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from wherefrom.errors import InputError
from wherefrom.evaluation import Recipe
from wherefrom.influence import Fit
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.flip_confirm import confirm_flips
from wherefrom.interventions.flip_sets import FlipSet, Robustness
from wherefrom.task import OneAtATime

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Flips(OneAtATime):
    """For each query, the smallest set found whose removal flips its prediction.

    Attributes:
        sets: one per query, in order.
        n: training examples.
        most: largest set that was looked for.
        order: `"first"` or `"newton"`.
        reduction: `"mean"` or `"sum"`, see `EditedObjective`.
    """

    sets: tuple[FlipSet, ...]
    n: int
    most: int
    order: str
    reduction: Reduction
    _fitted: Fit = field(repr=False)
    _queries: Any = field(repr=False)

    def __len__(self) -> int:
        return len(self.sets)

    def __getitem__(self, query: int) -> FlipSet:
        return self.sets[query]

    def __iter__(self) -> Iterator[FlipSet]:
        return iter(self.sets)

    def confirm(self, recipe: Recipe, *, retrainings: int = 3, seed: int = 0) -> Flips:
        """Retrain without each set; enlarge those that do not flip the prediction. See `confirm_flips`."""
        answers = confirm_flips(
            self.sets,
            self._fitted,
            self._queries,
            recipe,
            retrainings=retrainings,
            seed=seed,
        )
        return replace(self, sets=tuple(answers))

    def robustness(self, shares: Sequence[float] = (0.001, 0.005, 0.01)) -> Robustness:
        """The share of these predictions that fall to removing such parts of the training set.

        Raises:
            InputError: shares that are not between 0 and 1, or larger than what was looked for.
        """
        made = Robustness.of(self.sets, shares, self.n)
        if max(shares) * self.n >= self.most + 1:
            raise InputError(
                f"shares has {max(shares):g}, {int(max(shares) * self.n):,} training examples, but sets of "
                f"at most {self.most:,} were looked for. Pass max_size={int(max(shares) * self.n)} or more."
            )
        return made

    def to_pandas(self) -> pandas.DataFrame:
        """One row per query; see `FlipSet`."""
        import pandas

        return pandas.DataFrame([found.row() for found in self.sets])

    def __repr__(self) -> str:
        found = sum(one.size is not None for one in self.sets)
        return f"Flips({found} of {len(self)} predictions fall to removing ≤ {self.most:,} of {self.n:,})"
