"""Removing each training example alone, by a Newton step in closed form: first order divided by one minus the
leverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import choice
from wherefrom.curvature import GaussNewtonOperator
from wherefrom.errors import InputError, OutOfMemoryError, UnsupportedError
from wherefrom.influence.fit import Fit
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.scores import check_indices
from wherefrom.linalg import DiagonalOperator, LinearOperator, split_diagonal
from wherefrom.progress import progress_bar
from wherefrom.solvers import PreparedSolver


@dataclass(frozen=True)
class LeaveOneOut:
    """Predicted change of every query's measurement when each training example is removed alone.

    Attributes:
        index: training indices, `(k,)`.
        values: `(q, k)`: `∇m_qᵀ Δθ_i` with the curvature that is left without example `i`.
        first: `(q, k)`: the same with the whole curvature: first order.
        leverage: `(k,)`: the largest share of the curvature that example `i` alone holds in some direction of
            its outputs, in `[0, 1)`. First order misses about that much of the effect.
        reduction: `"mean"` over what is left, or `"sum"` with the weights `1/n`.
        measurement: name of `m`.
    """

    index: Int[Tensor, " k"]
    values: Float[Tensor, "q k"]
    first: Float[Tensor, "q k"]
    leverage: Float[Tensor, " k"]
    reduction: str
    measurement: str


def leave_one_out(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    indices: Sequence[int] | Tensor | np.ndarray | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> LeaveOneOut:
    """`Δm_q ≈ ∇m_qᵀ (C_λ − J_iᵀS_iJ_i/n)⁻¹ g_i / n`, for every training example, without inverting anything
    anew.

    With `u = ∇_f ℓ_i` and `K = J_i C_λ⁻¹ J_iᵀ/n`, a matrix of the size of the outputs, Woodbury's identity
    gives `(J_i C_λ⁻¹ ∇m)ᵀ (I − S_i K)⁻¹ u / n`; for one output that is first order divided by `1 − S K`, one
    minus the leverage (Pregibon 1981; Koh et al. 2019, §3). With `reduction="mean"` the weights become
    `1/(n − 1)`, and the curvature that of the same mean: the regulariser weighs a little more.

    Exact for ridge regression. Cost: one solve per training example and output.

    Args:
        fitted: with a curvature of the form `(1/n) Σ J_iᵀS_iJ_i`: GGN, Fisher, or the Hessian of a model
            whose outputs are affine in the parameters.
        queries, measurement: what is measured.
        indices: which training examples; all if not given.
        reduction: what the recipe minimises.

    Raises:
        UnsupportedError: the curvature is the Hessian of a network, or the solver treats layers apart.
        InputError: bad queries or indices, an unknown `reduction`, or a training set of one example.
    """
    choice("reduction", reduction, ("mean", "sum"))
    objective = fitted.objective
    if objective.n < 2:
        raise InputError("the training set has 1 example: without it nothing is left")
    data = _metric_operator(fitted)
    index = torch.arange(objective.n) if indices is None else check_indices(indices, objective.n)
    measured = resolve_measurement(measurement, objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    whole = _Whole(fitted, reduction)
    x = torch.cat(
        [
            whole.solve(gradients.rows(part).T)
            for part in torch.arange(len(gradients)).split(fitted.pairing.block_size())
        ],
        dim=1,
    )
    # What the others' growing weight does is the same for every removal; nothing where weights are kept.
    others = (x.T @ whole.mean_gradient).double()[:, None] / objective.n
    _, size = _outputs_and_batch(fitted)
    parts = []
    with progress_bar("leaving one out", len(index), enabled=fitted.options.progress) as bar:
        for part in index.to(objective.device).split(size):
            parts.append(_left_out(fitted, data, whole, x, part))
            bar.advance(len(part))
    values, first, leverage = (torch.cat(column, dim=-1) for column in zip(*parts))
    return LeaveOneOut(
        index=index,
        values=(values - others).to(objective.dtype).cpu(),
        first=(first - others).to(objective.dtype).cpu(),
        leverage=leverage.to(objective.dtype).cpu(),
        reduction=reduction,
        measurement=measured.name,
    )


def _left_out(
    fitted: Fit,
    data: GaussNewtonOperator,
    whole: _Whole,
    x: Float[Tensor, "p q"],
    part: Int[Tensor, " b"],
) -> tuple[Float[Tensor, "q b"], Float[Tensor, "q b"], Float[Tensor, " b"]]:
    """Newton's and the first-order change and the leverage of a batch, in float64, but for what the others'
    weight does."""
    objective = fitted.objective
    at = fitted.engine.linearise(objective.examples, part)
    b, n = len(part), objective.n
    width = at.outputs.numel() // b
    units = _units(at.outputs, width)
    jacobian = at.vjp_each(units)  # (b, width, p)
    spread = _spread(jacobian, whole.solve, n)
    bent = data.metric.apply(units, at, part).reshape(width, b, width).transpose(0, 1).double()
    seen = (jacobian @ x).double()  # (b, width, q)
    own = at.output_gradient(objective.loss).reshape(b, width, 1).double()
    # The others' growing weight acts on what is left of the curvature too.
    push = own - bent @ (jacobian @ whole.others).double().unsqueeze(2) / n
    taken = bent @ spread
    step = torch.linalg.solve(torch.eye(width, dtype=torch.float64, device=taken.device) - taken, push)
    leverage = torch.linalg.eigvals(taken).real.amax(dim=1)
    return (seen * step).sum(1).T / n, (seen * own).sum(1).T / n, leverage


def output_spread(fitted: Fit, index: Int[Tensor, " k"]) -> Float[Tensor, "k o o"]:
    """`K = J_i C_λ⁻¹ J_iᵀ / n` of these training examples, symmetric, in float64 on the CPU: one solve per
    example and output."""
    engine, objective = fitted.engine, fitted.objective
    width, size = _outputs_and_batch(fitted)
    needed = 8 * len(index) * width**2
    if needed > objective.memory:
        raise OutOfMemoryError(
            f"left-out predictions of {len(index):,} examples with {width:,} outputs are as many matrices of "
            f"{width:,} × {width:,}: {needed / 1e9:.3g} GB, and the memory budget is "
            f"{objective.memory / 1e9:.3g} GB. Ask for fewer examples at a time with indices=, raise memory= "
            "or take left_out='gradient'."
        )
    parts = []
    with progress_bar("left-out predictions", len(index), enabled=fitted.options.progress) as bar:
        for part in index.to(objective.device).split(size):
            at = engine.linearise(objective.examples, part)
            rows = at.vjp_each(_units(at.outputs, width))
            parts.append(_spread(rows, lambda rhs: fitted.apply(rhs).x, objective.n).cpu())
            bar.advance(len(part))
    spread = torch.cat(parts)
    return 0.5 * (spread + spread.mT)


def _outputs_and_batch(fitted: Fit) -> tuple[int, int]:
    """Outputs of an example, and examples taken together.

    Raises:
        OutOfMemoryError: what is held of a single example does not fit the memory budget.
    """
    objective = fitted.objective
    width = fitted.engine.evaluated(objective.examples, slice(0, 1)).outputs.numel()
    needed = 2 * width * (objective.p + width) * objective.dtype.itemsize
    if needed > objective.memory:
        raise OutOfMemoryError(
            f"leaving an example out in closed form solves for each of its outputs, and it has {width:,}: "
            f"{needed / 1e9:.3g} GB an example, and the memory budget is {objective.memory / 1e9:.3g} GB. "
            "Predict single removals with remove([i]).change(queries), which solves once."
        )
    return width, max(1, min(fitted.engine.rows_per_batch(width), fitted.pairing.block_size() // width))


def _units(outputs: Tensor, width: int) -> Float[Tensor, "o b *outputs"]:
    """Cotangents that pick one output of every example each."""
    eye = torch.eye(width, dtype=outputs.dtype, device=outputs.device)
    return eye[:, None].expand(width, outputs.shape[0], width).reshape(width, *outputs.shape)


def _spread(
    jacobian: Float[Tensor, "b o p"], solve: Callable[[Tensor], Tensor], n: int
) -> Float[Tensor, "b o o"]:
    solved = solve(jacobian.flatten(0, 1).T).T.reshape(jacobian.shape)
    return (jacobian @ solved.mT / n).double()


def has_closed_form(fitted: Fit) -> bool:
    """Whether `leave_one_out` applies and costs next to nothing beside what was fitted."""
    return fitted.solver.factorises and isinstance(fitted.curvature.data, GaussNewtonOperator)


def _metric_operator(fitted: Fit) -> GaussNewtonOperator:
    if fitted.solver.layers_apart:
        raise UnsupportedError(
            f"solver={fitted.solver.name!r} treats layers apart, so the curvature left without an example is "
            "not defined; fit with solver='exact' or 'cg'"
        )
    data = fitted.curvature.data
    if not isinstance(data, GaussNewtonOperator):
        raise UnsupportedError(
            "the Hessian of a network has no closed form for leaving one example out; fit with "
            "curvature='ggn', or predict single removals with remove([i]).change(queries)"
        )
    return data


class _Whole:
    """`C̃⁻¹`, `C̃ = C_data + (∇²R + λI)·(n − 1)/n` for a mean over what is left, and `C_λ` for a sum."""

    def __init__(self, fitted: Fit, reduction: str):
        self._fitted = fitted
        self._prepared: PreparedSolver = fitted.prepared
        self.mean_gradient = torch.zeros_like(fitted.objective.parameters.flat())
        self.others = self.mean_gradient
        if reduction == "mean":
            n = fitted.objective.n
            share = (n - 1) / n
            rest, diagonal = split_diagonal(fitted.damping.add_to(fitted.objective.regulariser.hessian()))
            operator: LinearOperator = fitted.curvature.data + DiagonalOperator(diagonal * share)
            for term in rest:
                operator = operator + term * share
            self._prepared = fitted.solver.prepare(operator, seed=fitted.options.seed)
            self.mean_gradient = fitted.mean_gradient.to(fitted.objective.dtype)
            self.others = self.solve(self.mean_gradient[:, None])[:, 0]

    def solve(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        if self._prepared is self._fitted.prepared:
            return self._fitted.apply(rhs).x
        return self._prepared.apply(rhs).x
