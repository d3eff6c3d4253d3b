"""What a page is made of: one section per model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.evaluation import Verification
from wherefrom.gradients import Coverage
from wherefrom.influence import (
    ANY,
    MinimumCheck,
    Range,
    Resolution,
    Scores,
    SelfScores,
    Trust,
    resolve_change,
    trust_without_fit,
)
from wherefrom.influence.identity import require_same
from wherefrom.report.blocks import PageBlock
from wherefrom.report.cards import Card


@dataclass(frozen=True)
class ReportSection:
    """The results for one model.

    Attributes:
        name: of the model, as the reader knows it.
        scores: queries × train.
        minimum: whether the parameters are a minimum; `None` where that was not checked.
        train_card, query_card: from an index to what people see of the example.
        settings: everything that defines the scores; those of `scores` when empty.
        coverage: which layer rule attributes which parameters, where the solver treats layers apart.
        verification: predicted against actual, if there was retraining.
        self_scores: for the ranking of examples to review.
        blocks: further ones, shown after the examples to review.
        facts: `(name, value)` shown first, such as the accuracy.
        now: `(q,)`: the measurement of each query as it is, `None` where it is not known.
        range: what the measurement can be.
        trust: how far to trust them.
        top: helpful and harmful examples shown per query.
        review: examples shown in the self-influence ranking.
        not_ranked: why there is none, where the method has no self-influence.
    """

    name: str
    scores: Scores
    minimum: MinimumCheck | None
    train_card: Callable[[int], Card]
    query_card: Callable[[int], Card]
    settings: Mapping[str, Any] = field(default_factory=dict)
    coverage: Sequence[Coverage] = ()
    verification: Verification | None = None
    self_scores: SelfScores | None = None
    blocks: Sequence[PageBlock] = ()
    facts: Sequence[tuple[str, str]] = ()
    top: int = 5
    review: int = 16
    not_ranked: str = ""
    now: Sequence[float] | None = None
    range: Range = ANY
    trust: Trust = field(default_factory=trust_without_fit)

    @property
    def solved(self) -> bool:
        """Whether the scores are those of an influence function, made by a solver."""
        return "solver" in self.settings

    @property
    def sized(self) -> bool:
        """Whether they predict a change, and not an order alone."""
        return self.scores.estimand != "similarity"

    def removal(self, q: int, row: Mapping[str, Any]) -> Resolution:
        """Whether what removing one example is predicted to do to query `q` stands out of its errors.

        Args:
            q: the query.
            row: of a ranking.
        """
        if not self.sized:
            return Resolution(False, "these scores are an order, without a size")
        share = self.scores.distance or 0.0
        n = self.scores.n_train
        layered = self.scores.plan is not None
        errors = {"the curvature used": share * abs(row["predicted_change"])} if layered else {}
        if math.isfinite(row["error"]) or self.scores.distance is None:
            errors["the solver" if self.solved else "the method"] = row["error"] / n
        return resolve_change(
            row["predicted_change"],
            errors,
            now=None if self.now is None else float(self.now[q]),
            range=self.range,
            measurement=self.scores.measurement,
        )

    def __post_init__(self) -> None:
        for name in ("top", "review"):
            whole(f"section {self.name!r}: {name}", getattr(self, name), 1)
        if self.verification is not None and self.verification.predicted.shape[1] != len(self.scores):
            raise InputError(
                f"section {self.name!r}: the verification has {self.verification.predicted.shape[1]} queries "
                f"and the scores {len(self.scores)}; they must be of the same queries"
            )
        if self.verification is not None:
            require_same("verification", self.verification.identity, self.scores.identity)
        if not self.settings:
            object.__setattr__(self, "settings", dict(self.scores.settings))
