"""Scores of training examples for queries, each with its error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.influence.tables import Ranking, known
from wherefrom.percentages import percentage
from wherefrom.solvers.damping_effect import damping_words

if TYPE_CHECKING:
    import pandas
    import xarray

# An expected error above this share of the scores is said.
_SHOWS = 0.02


@dataclass(frozen=True)
class Scores:
    """`score(z_i, m_q) = ∇m_qᵀ C_λ⁻¹ g_i`, queries × train.

    With `m` a loss, a positive score means *helpful*: removing `z_i` raises the query's loss, by about
    `score / n`.

    Attributes:
        values: `(q, n)`, on the CPU.
        error: `(q, n)`: the size of the solver's error expected in each score; infinite where it was not
            measured.
        bound: `(q, n)`: what that error cannot exceed, from `‖r‖ ‖g_i‖ / λ_min` plus an allowance for
            rounding; infinite where nothing is known (EK-FAC and its kin).
        bound_proven: whether `λ_min` in the bound is proven, or estimated from Ritz values.
        converged: `(q,)`, and `reason` for those that are not.
        relative_residual: `(q,)`; for EK-FAC and its kin that of probed queries against the full curvature,
            which says little of the scores: see `distance`.
        measurement: name of `m`.
        higher_is_better: `m` is a margin or a logit rather than a loss.
        estimand: what the scores predict, see `Attributor`.
        distance: of a solver that treats layers apart: how far a query's scores are from those of the full
            curvature *with the same damping*, relative to their size, as measured on a few queries. `None`
            where that was not measured, and for other solvers. It is the error of leaving a part of one
            matrix out, and no distance to retraining: measured on small networks it did not order methods by
            how well they agree with retraining, and was about 1 for good and bad ones alike. `verify`
            measures that.
        damping_share: the share of the scores that the damping decides, `−d ln(score) / d ln λ` between 0 and
            1: 0.01 means that 10 % more damping changes them by 0.1 %. `None` where that was not measured.
        plan: how layers were contracted, as JSON values; `None` for solvers that do not treat them apart.
        settings: everything that defines the run, as JSON values.
        identity: fingerprints of the fit, the queries and the measurement: `verify` and `report` refuse
            scores of others.

    Neither error says how well the linear model predicts retraining: that is measured by `verify`.
    """

    values: Float[Tensor, "q n"]
    error: Float[Tensor, "q n"]
    bound: Float[Tensor, "q n"]
    bound_proven: bool
    converged: Bool[Tensor, " q"]
    reason: str
    relative_residual: Float[Tensor, " q"]
    measurement: str
    higher_is_better: bool = False
    estimand: str = "removal at a minimum"
    distance: float | None = None
    damping_share: float | None = None
    plan: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.distance is not None and not math.isfinite(self.distance):
            object.__setattr__(self, "distance", None)

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def n_train(self) -> int:
        return self.values.shape[1]

    @property
    def predicted_change(self) -> Float[Tensor, "q n"]:
        """`m(θ̂_{−i}) − m(θ̂) ≈ score / n`, the weights `1/n` of the others kept."""
        return self.values / self.n_train

    def helpful(self, k: int = 5, query: int | None = None) -> Ranking:
        """The `k` most helpful training examples of each query (or of one): without them the query would be
        served worse."""
        return self._ranked(k, query, helpful=True)

    def harmful(self, k: int = 5, query: int | None = None) -> Ranking:
        """The `k` most harmful training examples of each query (or of one): without them the query would be
        served better."""
        return self._ranked(k, query, helpful=False)

    def group(self, indices: Sequence[int] | Tensor | np.ndarray) -> Float[Tensor, " q"]:
        """First-order score of a group of training examples: the sum of their scores.

        Raises:
            InputError: an empty group, an index outside the training set or named twice.
        """
        return self.values[:, check_indices(indices, self.n_train)].sum(1)

    def to_numpy(self) -> np.ndarray:
        """The values as a `(q, n)` array."""
        return self.values.numpy()

    def to_pandas(self) -> pandas.DataFrame:
        """One row per query and training example:
        `query, train, score, error, bound, predicted_change`; errors that are not known are missing."""
        import pandas

        q, n = self.values.shape
        return pandas.DataFrame(
            {
                "query": np.repeat(np.arange(q), n),
                "train": np.tile(np.arange(n), q),
                "score": self.values.numpy().ravel(),
                "error": known(self.error.numpy().ravel()),
                "bound": known(self.bound.numpy().ravel()),
                "predicted_change": self.predicted_change.numpy().ravel(),
            }
        )

    def to_xarray(self) -> xarray.Dataset:
        """Variables `score, error, bound` over the dimensions `query, train`, errors that are not known
        missing; settings as attributes."""
        import xarray

        dims = ("query", "train")
        return xarray.Dataset(
            {
                "score": (dims, self.values.numpy()),
                "error": (dims, known(self.error.numpy())),
                "bound": (dims, known(self.bound.numpy())),
            },
            attrs={
                "measurement": self.measurement,
                **{key: str(value) for key, value in self.settings.items()},
            },
        )

    def _ranked(self, k: int, query: int | None, *, helpful: bool) -> Ranking:
        k = whole("k", k, 1)
        if query is not None:
            query = whole("query", query, 0, len(self) - 1)
        queries = range(len(self)) if query is None else [query]
        sign = 1.0 if helpful != self.higher_is_better else -1.0
        # A stable sort on the CPU, so that ties keep the order of the training set whatever the batch size.
        order = {q: torch.argsort(self.values[q] * sign, descending=True, stable=True)[:k] for q in queries}
        query_column = torch.cat([torch.full((len(order[q]),), q) for q in queries])
        train_column = torch.cat([order[q] for q in queries])
        pick = (query_column, train_column)
        return Ranking(
            kind="helpful" if helpful else "harmful",
            query=query_column.numpy(),
            train=train_column.numpy(),
            score=self.values[pick].double().numpy(),
            error=self.error[pick].double().numpy(),
            bound=self.bound[pick].double().numpy(),
            predicted_change=self.predicted_change[pick].double().numpy(),
        )

    def __repr__(self) -> str:
        state = solver_state(self.values, self.error, self.bound, self.converged)
        if bool(torch.isfinite(self.bound).any()):
            state += f", worst relative residual {float(self.relative_residual.max()):.1e}"
        damped = damping_words(self.settings.get("damping", 0.0), self.damping_share)
        state += f"; {damped}" if damped else ""
        if self.distance is not None:
            state += f", {self.distance:.2g} from the full curvature at this damping (not from retraining)"
        return (
            f"Scores(queries={len(self)}, train={self.n_train}, measurement={self.measurement!r}, "
            f"solver={self.settings.get('solver')!r}, {state})"
        )

    def _repr_html_(self) -> str:
        top = self.helpful(3)._repr_html_() + self.harmful(3)._repr_html_()
        return f"<div><code>{escape(repr(self))}</code>{top}</div>"


def solver_state(
    values: Float[Tensor, "..."],
    estimate: Float[Tensor, "..."],
    bound: Float[Tensor, "..."],
    converged: Bool[Tensor, "..."],
) -> str:
    """What is known of a solver's answer, in a few words: that it converged, or the error expected relative
    to the size of the scores where that shows or no bound says more."""
    if not bool(converged.all()):
        return f"{int((~converged).sum())} NOT converged"
    if not bool(torch.isfinite(estimate).all()):
        return "error not measured"
    size = float(values.double().norm())
    relative = float(estimate.double().norm()) / size if size > 0 else 0.0
    expected = f"expected error {percentage(relative)} of the scores"
    if not bool(torch.isfinite(bound).any()):
        return f"{expected}, no bound"
    return expected if relative > _SHOWS else "all converged"


def check_indices(indices: Sequence[Any] | Tensor | np.ndarray, n: int) -> Tensor:
    """Training indices as a tensor.

    Raises:
        InputError: none at all, no integers, one outside `0..n-1`, or one named twice.
    """
    try:
        index = torch.as_tensor(indices).reshape(-1)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"indices are a {type(indices).__name__} that is no sequence of integers ({error}); expected "
            "such as [3, 17], a range, an array or a tensor"
        ) from error
    if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
        raise InputError(
            f"indices are of dtype {index.dtype}; expected integers (for a mask pass mask.nonzero()[:, 0])"
        )
    index = index.long()
    if index.numel() == 0:
        raise InputError("indices is empty: expected at least one training example")
    if int(index.min()) < 0 or int(index.max()) >= n:
        bad = int(index[(index < 0) | (index >= n)][0])
        raise InputError(f"indices: {bad} is outside the training set, 0..{n - 1}")
    if index.unique().numel() != index.numel():
        raise InputError("indices: some training example is named twice")
    return index
