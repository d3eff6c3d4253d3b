"""Influence for a fitted scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from wherefrom.api.influence import Influence
from wherefrom.api.sklearn_task import as_task
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import HvpMode
from wherefrom.solvers import RelativeDamping, Solver

# Arguments of `Influence` that the estimator decides.
_GIVEN = ("loss", "weight_decay", "regulariser", "form", "forward", "target", "collate")


def from_sklearn(
    fitted: Any,
    X: Any,
    y: Any,
    *,
    curvature: str = "auto",
    solver: Solver | str = "auto",
    damping: float | RelativeDamping | Literal["auto"] | None = None,
    parameters: str | Sequence[str] | nn.Module | None = None,
    batch_size: int | None = None,
    memory: str | int | float = "auto",
    dtype: torch.dtype | None = None,
    hvp_mode: HvpMode | Literal["auto"] = "auto",
    fisher_draws: int = 1,
    seed: int = 0,
    run_dir: str | Path | None = None,
    progress: bool = True,
    **refused: Any,
) -> Influence:
    """Influence for a fitted `LogisticRegression`, `Ridge` or `LinearRegression`, with its own objective.

    Args:
        fitted: the estimator.
        X, y: what it was fitted to, as given to its `fit`.
        damping: as for `Influence`; `None` is 0, or negligible where the objective leaves a direction free.
        curvature, solver, parameters, batch_size, memory, dtype, hvp_mode, fisher_draws, seed, run_dir,
            progress: as for `Influence`.
        refused: what the estimator decides; named in the error.

    Queries, replacements and added examples are `(X, y)` too, or lists of `(x, y)`; labels are the user's own
    everywhere, in what is given (`relabel(5, "spam")`) and in every table, and one that is not among
    `fitted.classes_` is refused. A recipe gets `(X, y)` as arrays with these labels; `verify` takes
    `wherefrom.api.refit(fitted)` with `reduction="sum"`. Call `.fit()` on the result.

    Raises:
        UnsupportedError: an estimator or option without a counterpart, `sample_weight` and `class_weight`
            among them.
        InputError: not fitted, wrong shapes, an unknown label, or coefficients that are not the optimum for
            `X, y`.
    """
    if "sample_weight" in refused:
        raise UnsupportedError(
            "sample_weight is not supported: every example has the weight 1/n in the objective"
        )
    for name in sorted(refused):
        if name not in _GIVEN:
            raise TypeError(f"from_sklearn() got an unexpected keyword argument {name!r}")
        raise InputError(
            f"{name}= is given by the estimator; build an Influence yourself for another objective"
        )
    task = as_task(fitted, X, y)
    return Influence(
        task.model,
        task.given,
        loss=task.loss,
        parameters=parameters,
        weight_decay=task.weight_decay,
        curvature=curvature,
        solver=solver,
        damping=task.damping if damping is None else damping,
        batch_size=batch_size,
        memory=memory,
        dtype=dtype,
        hvp_mode=hvp_mode,
        fisher_draws=fisher_draws,
        seed=seed,
        run_dir=run_dir,
        progress=progress,
        form=task.form,
    )
