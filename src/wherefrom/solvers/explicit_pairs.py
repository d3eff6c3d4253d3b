"""Scores and self-influence from explicit gradients: products with the solutions and with their error
directions, in one pass over the training set for each block of queries."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from wherefrom.gradients import ExampleGradients
from wherefrom.memory import memory_errors
from wherefrom.progress import progress_bar
from wherefrom.solvers.damping_effect import departure, undamped_distance
from wherefrom.solvers.pairing import OwnScores, Pairing, PairScores, SolvedBlock
from wherefrom.solvers.solution import Solution


def explicit_scores(pairing: Pairing, gradients: ExampleGradients, refine: int = 0) -> PairScores:
    """`∇mᵀ C_λ⁻¹ g_i` by one solve per query.

    Args:
        pairing: of the solver.
        gradients: of the queries' measurements.
        refine: so many extreme scores of each query, at either end, are corrected by solving for the training
            side too.
    """
    q, n = len(gradients), len(pairing.train)
    values, error, bound = (torch.empty(q, n, dtype=pairing.objective.dtype) for _ in range(3))
    solutions: list[Solution] = []
    share = 0.0
    with progress_bar("scoring", q, enabled=pairing.progress) as bar:
        for block in pairing.blocks(gradients):
            _score(pairing, block, values, error, bound)
            if refine:
                _refine(pairing, block, min(refine, n), values, error, bound)
            own = pairing.damping_share(block.gradients, block.solution.x)
            if pairing.departs:
                missing = departure(values[block.where], undamped_distance(own))
                error[block.where] = torch.hypot(error[block.where], missing)
            share = max(share, own)
            solutions.append(_without_vectors(block.solution))
            bar.advance(block.where.stop - block.where.start)
    return PairScores(
        values=values,
        error=error,
        bound=bound,
        converged=torch.cat([solution.converged for solution in solutions]),
        reason=" ".join(sorted({solution.reason for solution in solutions if solution.reason})),
        relative_residual=torch.cat([solution.relative_residual for solution in solutions]).cpu(),
        damping_share=share,
    )


def explicit_self_scores(pairing: Pairing, index: Int[Tensor, " k"]) -> OwnScores:
    """`g_iᵀ C_λ⁻¹ g_i` of these training examples, by one solve each."""
    values, error, bound, converged, reasons = [], [], [], [], set()
    size = min(pairing.block_size(), pairing.train.engine.rows_per_batch())
    with progress_bar("self-influence", len(index), enabled=pairing.progress) as bar:
        for part in index.split(size):
            with memory_errors("computing self-influence", "Lower memory=."):
                rows, sizes = pairing.train.rows_and_sizes(part)
                solution = pairing.solve(rows.T)
                solution = replace(solution, rhs_shaken=sizes.shaken, overlap=pairing.overlap(solution.x))
            own = (rows.T * solution.x).sum(0)
            values.append(own.cpu())
            missed = torch.einsum("kp,rpk->rk", rows, solution.error_directions)
            rounding = pairing.rounding_estimate(solution, sizes, own[:, None].expand(-1, len(own)))
            expected = torch.hypot(missed.norm(dim=0), rounding.diagonal()).cpu()
            if pairing.departs:
                distance = undamped_distance(pairing.damping_share(rows.T, solution.x))
                expected = torch.hypot(expected, departure(values[-1][None], distance)[0])
            error.append(expected)
            bound.append(pairing.score_bound(solution, sizes).diagonal().to(rows.dtype).cpu())
            converged.append(solution.converged)
            reasons.add(solution.reason)
            bar.advance(len(part))
    return OwnScores(
        values=torch.cat(values),
        error=torch.cat(error),
        bound=torch.cat(bound),
        converged=torch.cat(converged),
        reason=" ".join(sorted(reason for reason in reasons if reason)),
    )


def _score(pairing: Pairing, block: SolvedBlock, values: Tensor, error: Tensor, bound: Tensor) -> None:
    """Scores, errors and bounds of a block of queries, in one pass over the training set."""
    for where, made, expected, sizes in pairing.products(pairing.train, block.solution):
        values[block.where, where] = made.T.cpu()
        error[block.where, where] = expected.T.cpu()
        bound[block.where, where] = pairing.score_bound(block.solution, sizes).to(values.dtype).cpu()


def _refine(
    pairing: Pairing, block: SolvedBlock, k: int, values: Tensor, error: Tensor, bound: Tensor
) -> None:
    """Correct the extreme scores of each query by the training side: `score ← xᵀg + rᵀy` with
    `y ≈ C_λ⁻¹ g`."""
    own = values[block.where]
    order = own.argsort(dim=1, stable=True)
    extreme = torch.cat([order[:, :k], order[:, -k:]], dim=1)
    chosen = extreme.unique()
    residual = block.gradients - pairing.prepared.operator.matmat(block.solution.x)
    for part in chosen.split(pairing.block_size()):
        rows, sizes = pairing.train.rows_and_sizes(part)
        other = pairing.solve(rows.T)
        corrected = block.solution.x.T @ rows.T + residual.T @ other.x
        left = torch.einsum("pq,rpb->rqb", residual, other.error_directions).norm(dim=0)
        left = torch.hypot(left, pairing.rounding_estimate(block.solution, sizes, corrected)).cpu()
        corrected = corrected.cpu()
        rounding = pairing.score_bound(_exactly(block.solution), sizes)
        both = (
            residual.norm(dim=0).double()[:, None]
            * other.residual_norm.double()[None]
            / pairing.prepared.lower_bound
        )
        limit = (both + rounding).to(values.dtype).cpu()
        column = {int(i): position for position, i in enumerate(part)}
        for row in range(extreme.shape[0]):
            for i in extreme[row].unique().tolist():
                if i in column:
                    at = (block.where.start + row, i)
                    # Otherwise the training side was solved worse than the query's.
                    if limit[row, column[i]] < bound[at]:
                        values[at] = corrected[row, column[i]]
                        error[at] = left[row, column[i]]
                        bound[at] = limit[row, column[i]]


def _exactly(solution: Solution) -> Solution:
    """The same solution as if its residual were zero: what is left of the bound is rounding."""
    return replace(solution, reason="", residual_norm=torch.zeros_like(solution.residual_norm))


def _without_vectors(solution: Solution) -> Solution:
    """Drop the `p`-vectors once the scores are computed."""
    return replace(solution, x=solution.x[:0], error_directions=solution.error_directions[:, :0])
