"""What every `Solver` promises, as one call that a test of a new solver can make."""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor, nn

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Fit, FitOptions, resolve_measurement
from wherefrom.solvers import PreparedSolver, RelativeDamping, Solution, Solver
from wherefrom.task import Objective

_EXAMPLES, _QUERIES, _INPUTS, _HIDDEN, _CLASSES = 24, 5, 4, 5, 3
_DAMPING = 0.1
# Expected errors are held to their order of magnitude: the root mean square of the true ones may be this many
# times larger.
_FACTOR = 5.0
_ROUNDING = 1e-9


def check_solver(solver: Solver, *, damping: float | RelativeDamping = _DAMPING, seed: int = 0) -> Fit:
    """Check the contract of a solver on a small network in float64, and return the fit that was made with it.

    Settings are JSON values; solutions are finite, the same for the same seed, and zero for zero; residuals
    are those of the full operator, and a proven lower bound of the eigenvalues holds; `apply` gives the
    solution; scores and self-influence are the products of solutions and gradients, and the errors beside
    them have the size of the true ones; what preconditions is symmetric and positive definite.

    Args:
        solver: your own or Wherefrom's.
        damping: of the curvature, a Gauss-Newton matrix with weight decay.
        seed: of the model, of the right-hand sides, and of what the solver draws.

    Raises:
        AssertionError: a promise that is not kept.
    """
    assert isinstance(solver.name, str) and solver.name, "name is empty"
    assert json.loads(json.dumps(solver.settings()))["solver"] == solver.name, "settings() do not name it"
    generator = torch.Generator().manual_seed(seed)
    made = _fit(solver, damping, seed, generator)
    prepared = made.prepared
    dense = prepared.operator.to_dense()
    smallest = float(torch.linalg.eigvalsh(dense)[0])
    if prepared.lower_bound_proven:
        assert prepared.lower_bound <= smallest * (1 + _ROUNDING), (
            f"lower_bound {prepared.lower_bound:.6g} is said to be proven; the smallest eigenvalue is "
            f"{smallest:.6g}"
        )
    # Of the size and in the span of what it is asked for.
    rows = made.train_gradients.rows(slice(0, _EXAMPLES))
    rhs = rows.T @ torch.randn(_EXAMPLES, 4, generator=generator, dtype=torch.float64)
    rhs[:, -1] = 0
    solution = made.solve(rhs)
    _check_solution(prepared, solution, rhs, dense)
    again = made.solver.prepare(prepared.operator, seed=made.options.seed)
    if not prepared.follows_scores:
        assert torch.equal(again.solve(rhs).x, made.prepared.solve(rhs).x), (
            "the same seed gives other answers"
        )
    torch.testing.assert_close(made.apply(rhs).x, solution.x, msg="apply(v) is not solve(v).x")
    _check_pairs(made, dense, rows, generator)
    _check_preconditioner(prepared)
    return made


def _fit(solver: Solver, damping: float | RelativeDamping, seed: int, generator: torch.Generator) -> Fit:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = nn.Sequential(nn.Linear(_INPUTS, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, _CLASSES)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * normal(*parameter.shape))
    labels = torch.randint(_CLASSES, (_EXAMPLES,), generator=generator)
    objective = Objective(
        model.eval(), (normal(_EXAMPLES, _INPUTS), labels), loss="cross_entropy", weight_decay=0.01
    )
    options = FitOptions(curvature="ggn", solver=solver, damping=damping, seed=seed, progress=False)
    return Fit(objective, options).fit()


def _check_solution(prepared: PreparedSolver, solution: Solution, rhs: Tensor, dense: Tensor) -> None:
    p, k = rhs.shape
    assert solution.x.shape == (p, k) and bool(torch.isfinite(solution.x).all()), "a solution is not finite"
    for name in ("converged", "iterations", "residual_norm", "rhs_norm"):
        found = getattr(solution, name).shape
        assert found == (k,), f"{name} is of shape {tuple(found)}, expected one for each of {k} columns"
    directions = tuple(solution.error_directions.shape[1:])
    assert directions == (p, k), f"error_directions are (r, *{directions}), expected (r, {p}, {k})"
    assert float(solution.x[:, -1].abs().max()) == 0.0, "the solution for zero is not zero"
    torch.testing.assert_close(solution.rhs_norm, rhs.norm(dim=0), msg="rhs_norm is not ‖v‖")
    if solution.error_known:
        off = (rhs - dense @ solution.x).norm(dim=0)
        worst = float((off - solution.residual_norm).abs().max())
        assert worst <= _ROUNDING * float(rhs.norm() + (dense @ solution.x).norm()), (
            f"residual_norm is off by {worst:.3g} from that of the operator"
        )
    assert bool(solution.converged.all()) or solution.reason, "not converged, and no reason given"


def _check_pairs(made: Fit, dense: Tensor, rows: Tensor, generator: torch.Generator) -> None:
    """Scores against the dense inverse, with their errors; self-influence likewise."""
    inputs = torch.randn(_QUERIES, _INPUTS, generator=generator, dtype=torch.float64)
    queries = (inputs, torch.randint(_CLASSES, (_QUERIES,), generator=generator))
    scores = made.scores(queries)
    measured = resolve_measurement("loss", made.objective.loss)
    gradients = made.measure_gradients(queries, measured).rows(slice(0, _QUERIES))
    inverse = torch.linalg.inv(dense)
    truth = gradients @ inverse @ rows.T
    _check_errors("scores", scores.values, scores.error, scores.bound, truth)
    applied = made.apply(gradients.T).x.T @ rows.T
    off = float((applied - scores.values).norm() / applied.norm())
    # What the contraction may lose by its plan; and what the solver said that it does not know.
    planned = 0.0 if scores.plan is None else _FACTOR * scores.plan["rtol"]
    known = float(scores.error.norm() / applied.norm()) if scores.plan is None else 0.0
    assert off <= max(planned, _FACTOR * known, _ROUNDING), (
        f"scores are {off:.3g} of their size away from products of solutions and gradients"
    )
    own = made.self_scores()
    _check_errors("self-influence", own.values, own.error, own.bound, (rows @ inverse * rows).sum(1))


def _check_errors(what: str, values: Tensor, error: Tensor, bound: Tensor, truth: Tensor) -> None:
    assert bool(torch.isfinite(values).all()), f"{what}: not finite"
    assert not bool(torch.isnan(error).any()), f"{what}: an expected error is not a number"
    off = (values - truth).abs()
    if bool(torch.isfinite(error).all()):
        true, expected = (float(part.square().mean().sqrt()) for part in (off, error))
        least = _ROUNDING * float(truth.square().mean().sqrt())
        assert true <= max(_FACTOR * expected, least), (
            f"{what}: the true error is {true:.3g}, and {expected:.3g} was expected"
        )
    assert bool((off <= bound * (1 + _ROUNDING) + 1e-300).all()), f"{what}: an error exceeds its bound"


def _check_preconditioner(prepared: PreparedSolver) -> None:
    try:
        inverse = prepared.as_preconditioner()
    except UnsupportedError:
        return
    made = inverse.to_dense()
    scale = float(made.abs().max())
    assert float((made - made.T).abs().max()) <= 1e-6 * scale, "what preconditions is not symmetric"
    least = float(torch.linalg.eigvalsh((made + made.T) / 2)[0])
    assert least > 0 and math.isfinite(scale), f"what preconditions has an eigenvalue {least:.3g}"
