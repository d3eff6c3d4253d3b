"""Influence restricted to the last linear layer, from features and residuals alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wherefrom.errors import InputError
from wherefrom.gradients.last_layer import head_objective
from wherefrom.influence.compute import compute_scores
from wherefrom.influence.fit import Fit
from wherefrom.influence.fit_options import FitOptions
from wherefrom.influence.measurements import Measurement
from wherefrom.influence.scores import Scores
from wherefrom.solvers import Solver
from wherefrom.task import Objective


def head_scores(
    features: Float[Tensor, "n d"],
    targets: Any,
    query_features: Float[Tensor, "q e"],
    query_targets: Any,
    *,
    weight: Float[Tensor, "c f"],
    bias: Float[Tensor, " k"] | None = None,
    loss: Any = "cross_entropy",
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    weight_decay: float = 0.0,
    damping: float | str = "auto",
    solver: Solver | str = "auto",
    dtype: torch.dtype | None = None,
) -> Scores:
    """Scores `∇mᵀ C_λ⁻¹ g_i` of a linear layer on fixed features: `∇m = u ẽ_qᵀ`, `g_i = r_i ẽ_iᵀ` with
    `u = ∇_z m`, `r = ∇_z ℓ` (`p − y` for cross-entropy) and `C = (1/n) Σ_i S_i ⊗ ẽ_i ẽ_iᵀ + α I`.

    Exact for a softmax (or any other convex) regression on frozen features. With `X = C_λ⁻¹ ∇m` as a `c × d`
    matrix a score is `r_iᵀ X ẽ_i`: no gradient of an example is formed, and `C` is multiplied out from the
    features (`c²/2` weighted Gram products) and factorised where `c·d` is moderate, and only applied by a
    solver that takes products else. The same numbers as `Influence` with `parameters=` the head, by the same
    code.

    Args:
        features: `e` of the training examples, the layer's input `(n, d)`.
        targets: theirs, as the loss takes them.
        query_features, query_targets: of the queries, `(q, d)`.
        weight, bias: the trained layer, `(c, d)` and `(c,)`.
        loss: as for `Influence`.
        measurement: what is measured on a query.
        weight_decay: `α`, on weight and bias.
        damping, solver: as for `Influence`.
        dtype: of the computation; the weight's when `None`.

    Raises:
        InputError: shapes that do not fit together, and what `Influence` refuses.
    """
    c, d = weight.shape
    for found, name in ((features, "features"), (query_features, "query_features")):
        if found.shape[1] != d:
            raise InputError(
                f"{name} have {found.shape[1]} columns and weight has shape {(c, d)}; expected {d} columns, "
                "one for each of the layer's inputs."
            )
    if bias is not None and bias.shape != (c,):
        raise InputError(f"bias has shape {tuple(bias.shape)}; expected ({c},), one for each row of weight.")
    layer = nn.utils.skip_init(
        nn.Linear, d, c, bias=bias is not None, dtype=weight.dtype, device=str(weight.device)
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    objective = Objective(
        layer.eval(), (features, targets), loss=loss, weight_decay=weight_decay, dtype=dtype
    )
    options = FitOptions(solver=solver, damping=damping, progress=False)  # type: ignore[arg-type]
    return compute_scores(Fit(objective, options).fit(), (query_features, query_targets), measurement)


def head_influence(objective: Objective, options: FitOptions | None = None) -> Fit:
    """The influence function of a network's last linear layer alone, its features frozen; in closed form.

    Args:
        objective: of the whole network.
        options: as for any fit.

    Raises:
        UnsupportedError: the model does not end in a linear layer.
    """
    return Fit(head_objective(objective), options).fit()
