"""From a fitted influence function to scores, self-influence and parameter changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import Coverage
from wherefrom.influence.fit import Fit
from wherefrom.influence.identity import identity_of
from wherefrom.influence.measurements import Measurement, resolve_measurement
from wherefrom.influence.room import require_room_for_scores
from wherefrom.influence.scores import Scores, check_indices
from wherefrom.influence.self_scores import SelfScores
from wherefrom.solvers.contraction import Plan


def compute_scores(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    *,
    refine: int = 0,
) -> Scores:
    """Scores of every training example for every query: `∇mᵀ C_λ⁻¹ g_i`.

    Args:
        fitted: the fitted influence function.
        queries: examples, in any form the training data may have.
        measurement: what is measured on a query.
        refine: for the `refine` most helpful and most harmful training examples of each query, solve for the
            training side too
            and correct the score: with residuals `r` (query) and `s` (training), what is left is `rᵀC_λ⁻¹s`,
                a product of two
            small numbers.

    Raises:
        InputError, NonFiniteError: bad queries.
        OutOfMemoryError: scores and errors exceed the memory budget that was stated, or what is free.
    """
    refine = whole("refine", refine, 0)
    measured = resolve_measurement(measurement, fitted.objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    if fitted.prepared.approximates and refine:
        raise InputError(
            f"refine={refine}: solver={fitted.solver.name!r} approximates the curvature itself, so single "
            "scores cannot be corrected beside others that are not. Use refine=0, or "
            "solver=CG() for the full curvature."
        )
    require_room_for_scores(fitted.objective, len(gradients))
    made = fitted.prepared.pairwise(fitted.pairing, gradients, refine)
    return Scores(
        values=made.values,
        error=made.error,
        bound=made.bound,
        bound_proven=fitted.prepared.lower_bound_proven,
        converged=made.converged,
        reason=made.reason,
        relative_residual=made.relative_residual,
        measurement=measured.name,
        higher_is_better=measured.higher_is_better,
        distance=made.distance,
        damping_share=made.damping_share,
        plan=made.plan,
        settings={**fitted.settings(), "measurement": measured.name, "refine": refine},
        identity=identity_of(fitted.identity, gradients.examples, measured),
    )


def explain_scores(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
) -> str:
    """The plan of `compute_scores` for these queries, as text.

    Raises:
        UnsupportedError: the solver in use does not treat layers apart.
    """
    gradients = fitted.measure_gradients(queries, resolve_measurement(measurement, fitted.objective.loss))
    plan: Plan = fitted.prepared.plan(fitted.pairing, gradients)
    return plan.explain()


def layer_coverage(fitted: Fit) -> list[Coverage]:
    """How every block of parameters is attributed.

    Raises:
        UnsupportedError: the solver in use does not treat layers apart.
    """
    rows = list(fitted.prepared.coverage())
    if not rows:
        raise UnsupportedError(
            f"solver={fitted.solver.name!r} works on all parameters at once, so there is no coverage table: "
            "every studied parameter is covered by autograd. Use solver=EKFAC() for one."
        )
    return rows


def compute_self_scores(
    fitted: Fit, indices: Sequence[int] | Tensor | np.ndarray | None = None
) -> SelfScores:
    """Self-influence `g_iᵀ C_λ⁻¹ g_i` of training examples (all of them, or `indices`)."""
    index = (
        torch.arange(fitted.objective.n) if indices is None else check_indices(indices, fitted.objective.n)
    )
    made = fitted.prepared.quadratic(fitted.pairing, index)
    return SelfScores(
        index=index, **vars(made), settings=fitted.settings(), identity={"fit": fitted.identity}
    )


def parameter_influence(fitted: Fit, examples: Any) -> Float[Tensor, "k p"]:
    """`I_up,params(z) = dθ̂/dε = −C_λ⁻¹ g_z`: up-weighting `z` by `ε` moves `θ̂` by `ε` times this.

    Removing training example `i` moves the parameters by `−1/n` times its row (Koh & Liang 2017, §2.1).

    Args:
        fitted: the fitted influence function.
        examples: training indices (an integer, or a list or 1-D tensor of integers), or examples in any form
            the training data may have.
    """
    if _are_indices(examples):
        index = check_indices([examples] if isinstance(examples, Integral) else examples, fitted.objective.n)
        gradients = fitted.train_gradients
    else:
        gradients = fitted.measure_gradients(examples, resolve_measurement("loss", fitted.objective.loss))
        index = torch.arange(len(gradients))
    size = fitted.pairing.block_size()
    return torch.cat([-fitted.apply(gradients.rows(part).T).x.T for part in index.split(size)])


def _are_indices(examples: Any) -> bool:
    if isinstance(examples, Tensor):
        return examples.ndim == 1 and not examples.is_floating_point()
    if isinstance(examples, np.ndarray):
        return examples.ndim == 1 and examples.dtype.kind in "biu"
    return isinstance(examples, Integral) or (
        isinstance(examples, (list, range)) and all(isinstance(i, Integral) for i in examples)
    )
