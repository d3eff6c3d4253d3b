"""Training groups × query groups, as a table that answers questions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.influence import ANY, Range, Resolution, resolve_change
from wherefrom.influence.tables import frame_of
from wherefrom.studies.slices.groups import Groups
from wherefrom.studies.slices.ranking import GroupRanking

if TYPE_CHECKING:
    import pandas

# A group above this share of the training set moves the curvature too: first order is a direction only.
LARGE_SHARE = 0.1
# Standard errors beyond which a change is not put down to the choice of queries.
CERTAIN = 2.0
# Query groups written out in a repr.
_SHOWN = 8


@dataclass(frozen=True)
class GroupInfluence:
    """Predicted change of each query group's mean measurement when each training group is removed.

    With a loss, a negative change means that the training group *harms* the query group: without it, the
    queries would be served better. With a measurement that is better high, a positive one does.

    Attributes:
        train, queries: the groups, `t` and `q` of them.
        measured: mean measurement of each query group now, `(q,)`.
        change: predicted change on removal, first order, `(t, q)`.
        error: the solver's error expected in it; infinite where it was not measured.
        bound: what that error cannot exceed (infinite where nothing is known); neither says how far first
            order carries.
        standard_error: of the change, from its spread over the queries of the group: other queries of the
            kind would give another mean. Infinite for a single query.
        scores: `∇m̄ᵀ C_λ⁻¹ g_i` of each training example for the mean of each query group, `(n, q)`.
        score_error: its expected error, `(n, q)`.
        converged: per query group; `reason` for those that are not.
        measurement, higher_is_better, range: what was measured, and what it can be.
        settings: everything that defines the numbers, as JSON values.
        damping_error: relative error that the damping makes in the changes, by estimate.
        estimand: what the scores predict, see `Attributor`; sums of similarities have no size.
    """

    train: Groups
    queries: Groups
    measured: Float[Tensor, " q"]
    change: Float[Tensor, "t q"]
    error: Float[Tensor, "t q"]
    bound: Float[Tensor, "t q"]
    standard_error: Float[Tensor, "t q"]
    scores: Float[Tensor, "n q"]
    score_error: Float[Tensor, "n q"]
    converged: Bool[Tensor, " q"]
    reason: str
    measurement: str
    higher_is_better: bool = False
    range: Range = ANY
    settings: dict[str, Any] = field(default_factory=dict)
    damping_error: float = 0.0
    estimand: str = "removal at a minimum"

    @property
    def sized(self) -> bool:
        """Whether a change is predicted, and not an order alone."""
        return self.estimand != "similarity"

    @property
    def solved(self) -> bool:
        """Whether the scores are those of an influence function, made by a solver."""
        return "solver" in self.settings

    def resolution(self, t: int, q: int) -> Resolution:
        """Whether the change that training group `t` makes to query group `q` stands out of its errors: the
        solver's, the damping's, twice its standard error over the sample of queries, and what first order
        cannot predict."""
        if not self.sized:
            return Resolution(False, "these scores are an order, without a size")
        return resolve_change(
            float(self.change[t, q]),
            {
                "the solver" if self.solved else "the method": float(self.error[t, q]),
                "the damping": self.damping_error * abs(float(self.change[t, q])),
                "the sample of queries": CERTAIN * float(self.standard_error[t, q]),
            },
            now=float(self.measured[q]),
            range=self.range,
            measurement=self.measurement,
        )

    @property
    def n_train(self) -> int:
        return self.train.n

    @property
    def per_example(self) -> Float[Tensor, "t q"]:
        """The change per removed example: large for few that matter much."""
        return self.change / self.train.counts[:, None]

    @property
    def share_of_train(self) -> Float[Tensor, " t"]:
        """Share of the training set in each training group; above a tenth, first order is to be taken as a
        direction only."""
        return self.train.counts.double() / self.n_train

    @property
    def harm(self) -> Float[Tensor, "n q"]:
        """How much better each query group would fare without each training example; negative where it
        helps."""
        return (self.scores if self.higher_is_better else -self.scores) / self.n_train

    @property
    def share_of_harm(self) -> Float[Tensor, "t q"]:
        """The share of all harm done to a query group that the harmful examples of a training group do.

        Harm of single examples, `max(0, harm)`, is added up and not set off against the help of others; it
        sums to 1 over groups that part the training set.
        """
        harm = self.harm.double().clamp(min=0)
        total = harm.sum(0)
        own = torch.stack([harm[members].sum(0) for members in self.train.members])
        return torch.where(total > 0, own / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)

    def harmful(self, query_group: Any = None, k: int = 10) -> GroupRanking:
        """The `k` training examples without which the query group is predicted to fare best.

        Args:
            query_group: its name; may be left out where there is only one.
            k: how many.

        Raises:
            InputError: an unknown group, none named out of several, or `k < 1`.
        """
        return self._ranked(query_group, k, harmful=True)

    def helpful(self, query_group: Any = None, k: int = 10) -> GroupRanking:
        """The `k` training examples without which the query group is predicted to fare worst; arguments and
        errors as for `harmful`."""
        return self._ranked(query_group, k, harmful=False)

    def carriers(self, query_group: Any = None) -> list[str]:
        """Names of the training groups, the one that harms the query group most first.

        Raises:
            InputError: an unknown group, or none named out of several.
        """
        column = self.change[:, self._query(query_group)]
        harm = column if self.higher_is_better else -column
        return [self.train.names[i] for i in harm.argsort(descending=True, stable=True)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One row per training group and query group."""
        shares, each, own = self.share_of_harm, self.per_example, self.share_of_train
        for q, query_group in enumerate(self.queries.names):
            for t, train_group in enumerate(self.train.names):
                found = self.resolution(t, q)
                yield {
                    "train_group": train_group,
                    "query_group": query_group,
                    "train_count": len(self.train.members[t]),
                    "query_count": len(self.queries.members[q]),
                    "measured": float(self.measured[q]),
                    "change": float(self.change[t, q]),
                    "error": float(self.error[t, q]),
                    "bound": float(self.bound[t, q]),
                    "standard_error": float(self.standard_error[t, q]),
                    "per_example": float(each[t, q]),
                    "share_of_train": float(own[t]),
                    "share_of_harm": float(shares[t, q]),
                    "resolved": found.resolved,
                    "reason": found.reason,
                }

    def to_pandas(self) -> pandas.DataFrame:
        """The same rows as a data frame; errors that are not known are missing."""
        return frame_of(self)

    def __repr__(self) -> str:
        state = "" if bool(self.converged.all()) else f", {int((~self.converged).sum())} NOT converged"
        head = f"GroupInfluence({len(self.train)} training groups × {len(self.queries)} query groups"
        lines = [f"{head}, measurement={self.measurement!r}{state})"]
        for q, name in enumerate(self.queries.names[:_SHOWN]):
            first = self.carriers(name)[0]
            t = self.train.number(first)
            error = float(self.standard_error[t, q])
            beside = f" ± {error:.1e} by the sample" if math.isfinite(error) else ""
            found = self.resolution(t, q)
            beside += "" if found.resolved else f", NOT RESOLVED: {found.reason}"
            lines.append(
                f"  {name}: {self.measurement} {float(self.measured[q]):.4g}; without {first} "
                f"({len(self.train.members[t])}): {float(self.change[t, q]):+.3e}{beside}"
            )
        if len(self.queries) > _SHOWN:
            lines.append(f"  and {len(self.queries) - _SHOWN} more query groups")
        return "\n".join(lines)

    def _query(self, query_group: Any) -> int:
        if query_group is not None:
            return self.queries.number(query_group)
        if len(self.queries) > 1:
            raise InputError(
                f"query_group: there are {len(self.queries)} query groups; name one of "
                f"{', '.join(map(repr, self.queries.names[:_SHOWN]))}"
            )
        return 0

    def _ranked(self, query_group: Any, k: int, *, harmful: bool) -> GroupRanking:
        k = whole("k", k, 1)
        q = self._query(query_group)
        order = torch.argsort(self.harm[:, q], descending=harmful, stable=True)[:k]
        values = self.scores[order, q].double()
        return GroupRanking(
            kind="harmful" if harmful else "helpful",
            query_group=self.queries.names[q],
            train=order.numpy(),
            train_group=tuple(", ".join(self.train.names_of(int(i))) for i in order),
            score=values.numpy(),
            error=self.score_error[order, q].double().numpy(),
            change=(values / self.n_train).numpy(),
        )
