"""Influence for a fitted scikit-learn estimator."""

from __future__ import annotations

from typing import Any

from wherefrom.api.influence import Influence
from wherefrom.api.sklearn_task import as_task
from wherefrom.errors import InputError, UnsupportedError


def from_sklearn(fitted: Any, X: Any, y: Any, **options: Any) -> Influence:
    """Influence for a fitted `LogisticRegression`, `Ridge` or `LinearRegression`, with its own objective.

    Args:
        fitted: the estimator.
        X, y: what it was fitted to, as given to its `fit`.
        options: further arguments of `Influence`. `damping` is 0, or negligible where the objective leaves a
            direction free.

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
    if "sample_weight" in options:
        raise UnsupportedError(
            "sample_weight is not supported: every example has the weight 1/n in the objective"
        )
    fixed = sorted({"loss", "weight_decay", "regulariser", "form"} & options.keys())
    if fixed:
        raise InputError(
            f"{fixed[0]}= is given by the estimator; build an Influence yourself for another objective"
        )
    task = as_task(fitted, X, y)
    chosen = {"damping": task.damping, **options}
    return Influence(
        task.model, task.given, loss=task.loss, weight_decay=task.weight_decay, form=task.form, **chosen
    )
