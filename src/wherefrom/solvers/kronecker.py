"""Solvers that invert a Kronecker approximation of the curvature, layer by layer: EK-FAC, K-FAC, the
diagonal, and the identity."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.curvature.gauss_newton import GaussNewtonOperator
from wherefrom.curvature.hessian import HessianOperator
from wherefrom.curvature.kronecker import (
    BlockInverse,
    KroneckerCurvature,
    KroneckerOptions,
    Labels,
    Sharing,
    factored_inverses,
    gather_kronecker,
    identity_inverses,
    kronecker_inverses,
)
from wherefrom.errors import NotPositiveDefiniteError, UnsupportedError
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.linalg import LinearOperator, split_diagonal
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.blocks import BlockSolver, PreparedBlocks
from wherefrom.solvers.damping import Damping, RelativeDamping
from wherefrom.solvers.repair import round_up

# A block without curvature (an unused layer) is damped by this share of the average layer's mean eigenvalue.
_DEAD = 1e-3


class _Kronecker(BlockSolver):
    """What EK-FAC, K-FAC and the diagonal share."""

    method: Any

    def __init__(
        self,
        labels: Labels = "auto",
        *,
        draws: int = 1,
        sharing: Sharing = "expand",
        score_rtol: float = 1e-3,
        probes: int = 4,
        strict: bool = True,
    ):
        self.options = KroneckerOptions(self.method, labels, draws, sharing, strict)
        words = "a number from 0 (exact) to below 1"
        self.score_rtol = number("score_rtol", score_rtol, least=0, below=1, expected=words)
        self.probes = whole("probes", probes, 0)
        self.strict = strict

    def settings(self) -> dict[str, Any]:
        own = {"solver": self.name, "score_rtol": self.score_rtol, "probes": self.probes}
        return {**own, **{key: value for key, value in asdict(self.options).items() if key != "seed"}}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        data, diagonal = data_term(operator, f"solver={self.name!r} approximates")
        layers = layer_gradients(data, self.strict)
        curvature = self.curvature(operator, seed=seed)
        damping = {
            block.name: float(diagonal[block.index.reshape(-1)].double().mean()) for block in layers.blocks
        }
        _require_damping(curvature, damping)
        return PreparedBlocks(self, operator, layers, curvature, self.inverses(curvature, damping), damping)

    def curvature(self, operator: LinearOperator, *, seed: int = 0) -> KroneckerCurvature:
        """The approximation of the operator's data term; gathered once and kept."""
        data, _ = data_term(operator, f"solver={self.name!r} approximates")
        options = KroneckerOptions(**{**asdict(self.options), "seed": seed})
        kept = data.memo
        if options not in kept:
            layers = layer_gradients(data, self.strict)
            kept[options] = gather_kronecker(data, layers, options, run_dir=data.run_dir)
        return kept[options]

    def inverses(self, curvature: KroneckerCurvature, damping: dict[str, float]) -> list[BlockInverse]:
        """The damped inverse of each block; another solver of layers may give others."""
        return kronecker_inverses(curvature, damping)


class EKFAC(_Kronecker):
    """Eigenvalue-corrected K-FAC: each layer's block of the Gauss-Newton or Fisher matrix, in the eigenbasis
    of its Kronecker factors, with the best diagonal there.

    Terms between layers are left out. What that costs in a score is estimated on `probes` queries and stands
    in the scores' errors; `CG(preconditioner=EKFAC())` removes it.

    Args:
        labels: where the gradients for the factors come from: `"exact"` (the output curvature root by root,
            for a softmax the expectation over classes), `"sampled"` (labels drawn from the model), or
            `"auto"`: exact up to 16 roots an example; which, and why, stands in the notes.
            `curvature="empirical_fisher"` takes the training labels.
        draws: labels drawn per example.
        sharing: `"expand"` or `"reduce"`, for weights shared over positions (Eschenhagen et al. 2023).
        score_rtol: root mean square error, relative to a query's scores, that the contraction may make; 0 for
            exact contraction.
        probes: queries on which the distance to the full matrix is estimated.
        strict: refuse layers that no rule covers and that are too large for explicit gradients.

    Damping `"auto"` is `RelativeDamping(0.1)`: per layer, a tenth of its mean eigenvalue.

    Sources: George et al. 2018; Grosse et al. 2023, §2.2 and §3.1.
    """

    name = "ekfac"
    method = "ekfac"


class KFAC(_Kronecker):
    """Kronecker-factored curvature: each layer's block as `A ⊗ B` (Martens & Grosse 2015).

    Args:
        factored: damp the two factors apart, `(A + π√λ) ⊗ (B + √λ/π)` (§6.3 there): the inverse stays a
            Kronecker product, and scores cost two Gram products. `False` adds `λ` to the product of the
            eigenvalues.
        labels, draws, sharing, score_rtol, probes, strict: as for `EKFAC`.
    """

    name = "kfac"
    method = "kfac"

    def __init__(
        self,
        labels: Labels = "auto",
        *,
        factored: bool = False,
        draws: int = 1,
        sharing: Sharing = "expand",
        score_rtol: float = 1e-3,
        probes: int = 4,
        strict: bool = True,
    ):
        super().__init__(
            labels, draws=draws, sharing=sharing, score_rtol=score_rtol, probes=probes, strict=strict
        )
        self.factored = factored

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "factored": self.factored}

    def inverses(self, curvature: KroneckerCurvature, damping: dict[str, float]) -> list[BlockInverse]:
        made = factored_inverses if self.factored else kronecker_inverses
        return made(curvature, damping)


class Diagonal(_Kronecker):
    """The diagonal of the Gauss-Newton or Fisher matrix. Options as for `EKFAC`."""

    name = "diagonal"
    method = "diagonal"


class Identity(BlockSolver):
    """No curvature: scores are inner products of gradients, `∇mᵀ g_i`.

    A baseline; nothing is said about its distance from the inverse curvature.

    Args:
        strict: as for `EKFAC`.
    """

    name = "identity"
    uses_curvature = False

    def __init__(self, strict: bool = True):
        self.strict = strict

    def settings(self) -> dict[str, Any]:
        return {"solver": self.name, "strict": self.strict}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        layers = LayerGradients(_engine(operator), strict=self.strict)
        inverses = identity_inverses(layers.blocks, layers.objective.dtype)
        none = dict.fromkeys((block.name for block in layers.blocks), 0.0)
        return PreparedBlocks(self, operator, layers, None, inverses, none)


def data_term(operator: LinearOperator, purpose: str) -> tuple[GaussNewtonOperator, Tensor]:
    """The Gauss-Newton term of a curvature, and the diagonal of the rest (weight decay and damping).

    Args:
        operator: the curvature.
        purpose: who wants it for what, as the errors say: it goes before "a Gauss-Newton or Fisher matrix".

    Raises:
        UnsupportedError: the curvature is of another kind.
    """
    rest, diagonal = split_diagonal(operator)
    if len(rest) != 1 or not isinstance(rest[0], GaussNewtonOperator):
        kinds = ", ".join(type(term).__name__ for term in rest) or "a diagonal"
        raise UnsupportedError(
            f"{purpose} a Gauss-Newton or Fisher matrix plus weight decay; found {kinds}. Use "
            "curvature='ggn', 'fisher', 'sampled_fisher' or 'empirical_fisher', and weight_decay= instead of "
            "another regulariser."
        )
    return rest[0], diagonal


def _engine(operator: LinearOperator) -> GradientEngine:
    """Of the objective whose curvature this is."""
    rest = split_diagonal(operator)[0]
    found = [term.engine for term in rest if isinstance(term, (GaussNewtonOperator, HessianOperator))]
    if not found:
        raise UnsupportedError(
            "solver='identity' takes gradients of the objective whose curvature it is prepared on; found an "
            "operator without one. Use wherefrom.Influence, or an operator of wherefrom.curvature."
        )
    return found[0]


def layer_gradients(data: GaussNewtonOperator, strict: bool) -> LayerGradients:
    """Factored gradients of the operator's objective, made once."""
    key = ("layers", strict)
    if key not in data.memo:
        data.memo[key] = LayerGradients(data.engine, strict=strict)
    return data.memo[key]


def relative_damping(
    operator: LinearOperator, relative: RelativeDamping, solver: Solver, *, seed: int = 0
) -> Damping:
    """`λ` per layer from the mean eigenvalues of its block of the data term.

    Args:
        operator: `C` without damping.
        relative: the share.
        solver: in use; one that gathers Kronecker factors has the means at hand.
        seed: of drawn labels.

    Raises:
        UnsupportedError: the data term is no Gauss-Newton or Fisher matrix.
    """
    if not isinstance(solver, BlockSolver):  # those say so themselves
        data_term(
            operator,
            f"damping=RelativeDamping({relative.fraction:g}) takes each layer's mean eigenvalue from",
        )
    preconditioner = getattr(solver, "preconditioner", None)
    source = preconditioner if isinstance(preconditioner, Solver) else solver
    # A preconditioner's factors serve where their traces are those of the blocks themselves.
    usable = isinstance(source, _Kronecker if source is solver else (EKFAC, Diagonal))
    gathering = source if usable else Diagonal(strict=getattr(source, "strict", True))
    assert isinstance(gathering, _Kronecker)
    curvature = gathering.curvature(operator, seed=seed)
    means = curvature.mean_eigenvalues()
    average = sum(means.values()) / len(means)
    floor = _DEAD * average if average > 0 else 1.0
    per_block = {name: relative.fraction * max(mean, floor) for name, mean in means.items()}
    diagonal = torch.empty(operator.size, dtype=operator.dtype, device=operator.device)
    for block in curvature.blocks:
        diagonal[block.index.reshape(-1)] = per_block[block.name]
    low, high = min(per_block.values()), max(per_block.values())
    return Damping(
        high,
        f"{relative.fraction:g} times the mean eigenvalue of each layer ({low:.3g} to {high:.3g})",
        per_block=per_block,
        diagonal=diagonal,
    )


def _require_damping(curvature: KroneckerCurvature, damping: dict[str, float]) -> None:
    for block, values in zip(curvature.blocks, curvature.eigenvalues):
        smallest = float(values.min()) + damping[block.name]
        if smallest <= 1e-7 * float(values.max()):
            mean = float(values.double().mean())
            repair = round_up(0.1 * mean) if mean > 0 else 1.0
            raise NotPositiveDefiniteError(
                f"damping: the Kronecker curvature of {block.name!r} is singular (smallest eigenvalue "
                f"{smallest:.3g}, largest {float(values.max()):.3g}). Use damping='auto', "
                f"RelativeDamping(0.1), or at least damping={repair:.2g}.",
                eigenvalue=smallest,
                damping=repair,
            )
