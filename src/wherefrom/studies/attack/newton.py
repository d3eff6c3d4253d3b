"""Newton's method and linear solves for a batch of heads, each with a Hessian of its own, by conjugate
gradients preconditioned with the one factorisation prepared at the trained head."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.linalg import batched_cg
from wherefrom.studies.attack.head import EditedHead, Evaluation, HeadProblem, Refit

# A Newton system is solved to this relative residual: the next step corrects the rest.
_FORCING = 0.1
_MOST_NEWTON = 60
_HALVINGS = 25
# Sufficient decrease, as a share of what the linear model promises.
_ARMIJO = 1e-4
# A Newton step from an optimum, relative to the head.
_NEAR = 1e-2
# Rounding in a gradient, in units of `eps` times the gradient of a typical example: below that nothing can
# be asked for.
_ROUNDING = 20.0

Heads = Float[Tensor, "B c d"]


def tolerance_floor(problem: HeadProblem) -> float:
    """The smallest `n ‖∇J‖ / rms‖g_i‖` that the computation's dtype resolves."""
    return _ROUNDING * torch.finfo(problem.features.dtype).eps * problem.n


def refit(problem: HeadProblem, heads: Heads, edited: EditedHead, *, tolerance: float) -> Refit:
    """The optimum of every `J_b` by Newton's method with a line search, from `heads`.

    Args:
        problem: the objective and its factorisation at the trained head.
        heads: where each starts.
        edited: what each has changed.
        tolerance: stop when `n ‖∇J_b‖ / rms‖g_i‖` is below it: the gradient left over, in units of what
            removing a single example changes. Raised to what the dtype resolves.
    """
    tolerance = max(tolerance, tolerance_floor(problem))
    heads = heads.clone()
    at = problem.evaluate(heads, edited)
    distance = problem.distance(at.gradient)
    stuck = torch.zeros_like(distance, dtype=torch.bool)
    steps = 0
    while steps < _MOST_NEWTON:
        active = ((distance > tolerance) & ~stuck).nonzero()[:, 0]
        if not len(active):
            break
        steps += 1
        own = edited.rows(active)
        here = at if len(active) == len(heads) else problem.evaluate(heads[active], own)
        moved, reached, failed = _newton_step(problem, heads[active], own, here)
        heads[active] = moved
        distance[active] = problem.distance(reached.gradient)
        stuck[active] = failed
        at = reached if len(active) == len(heads) else at
    return Refit(heads, distance <= tolerance, distance, steps)


def _newton_step(
    problem: HeadProblem, heads: Heads, edited: EditedHead, at: Evaluation
) -> tuple[Heads, Evaluation, Bool[Tensor, " B"]]:
    """One step for each head: the new heads, the objectives there, and which could not be improved."""
    step, _ = batched_cg(
        lambda v: problem.product(at, edited, v), problem.precondition, -at.gradient, rtol=_FORCING
    )
    slope = (step * at.gradient).sum((1, 2))
    before = at.gradient.flatten(1).norm(dim=1)
    # Near the optimum the objective's own rounding hides its decrease; the gradient's norm then decides.
    slack = 8 * torch.finfo(at.value.dtype).eps * at.value.abs()
    size = torch.ones_like(slope)
    for _ in range(_HALVINGS):
        moved = heads + size[:, None, None] * step
        reached = problem.evaluate(moved, edited)
        left = reached.gradient.flatten(1).norm(dim=1)
        good = (reached.value <= at.value + _ARMIJO * size * slope) | (
            (reached.value <= at.value + slack) & (left < before)
        )
        if bool(good.all()):
            return moved, reached, ~good
        size = torch.where(good, size, 0.5 * size)
    size = torch.where(good, size, 0.0)
    moved = heads + size[:, None, None] * step
    return moved, problem.evaluate(moved, edited), ~good


def has_optimum(problem: HeadProblem, heads: Heads, edited: EditedHead) -> Bool[Tensor, " B"]:
    """Whether heads whose gradient has vanished are near an optimum, which a Newton step would show by its
    length. Without weight decay separable classes have none: the gradient vanishes on the way to infinity,
    and every step is as long as the last."""
    if float(problem.decay.min()) > 0:
        return torch.ones(len(heads), dtype=torch.bool, device=heads.device)
    at = problem.evaluate(heads, edited)
    step, _ = batched_cg(
        lambda v: problem.product(at, edited, v), problem.precondition, -at.gradient, rtol=_FORCING
    )
    return step.flatten(1).norm(dim=1) <= _NEAR * heads.flatten(1).norm(dim=1).clamp(min=1e-30)


def solve_damped(
    problem: HeadProblem, at: Evaluation, edited: EditedHead, rhs: Heads, start: Heads | None, *, rtol: float
) -> tuple[Heads, Bool[Tensor, " B"]]:
    """`s_b = (∇²J_b + λI)⁻¹ v_b` with the damping of the fit."""

    def damped(vectors: Tensor) -> Tensor:
        return problem.product(at, edited, vectors) + problem.damping * vectors

    return batched_cg(damped, problem.precondition, rhs, start, rtol=rtol)
