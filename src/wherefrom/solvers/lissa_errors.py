"""What a Neumann series leaves out: known before its steps, and measured after them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.linalg import LinearOperator
from wherefrom.linalg.lanczos import ritz, tridiagonalise
from wherefrom.solvers.cg_iteration import BlockIteration

# Nodes of the quadrature that predicts what is left out.
_NODES = 20
# Full products a column that look for the bias: this share of the cost of the steps, within these limits.
_SHARE = 0.25
_FEWEST, _MOST = 3, 20
_LOOSE = 0.05
# Bias is told from noise where it is so many times the standard error.
_CLEAR = 3.0
# An answer whose error is more than this share of it is none.
_POOR = 0.25
_MOST_STEPS = 1e300


@dataclass(frozen=True)
class Prediction:
    """What a series of given scale and depth leaves out of `vᵀ C_λ⁻¹ v`.

    Attributes:
        share: relative to it.
        steps: the depth at which that is no more than the bias asked for.
    """

    share: float
    steps: float


def predict(
    operator: LinearOperator, rhs: Float[Tensor, "p k"], scale: float, depth: int, bias: float
) -> Prediction:
    """By Gauss quadrature (Golub & Meurant 1994) of `vᵀ C_λ⁻¹ (I − C_λ/σ)^(J+1) v` for the sum `v` of the
    columns at unit length: a Lanczos run from it, without any step of the series.

    The nodes see no more of the flattest directions than the columns have of them, so that too little is
    predicted rather than too much.
    """
    sizes = rhs.norm(dim=0)
    start = (rhs / torch.where(sizes > 0, sizes, torch.ones_like(sizes))).sum(1)
    length = start.norm()
    if not float(length) > 0:
        return Prediction(0.0, 1.0)
    alpha, beta, steps, _ = tridiagonalise(operator, (start / length)[None], _NODES)
    values, vectors = ritz(alpha[:, 0], beta[:, 0], int(steps[0]))
    weights = vectors[0].square() * (values > 0) / values.abs().clamp(min=1e-300)
    decay = torch.log1p(-(values / scale).clamp(1e-300, 1 - 1e-12))

    def share(count: float | int) -> float:
        return float((weights * (decay * (count + 1)).exp()).sum() / weights.sum())

    low, high = 0.0, 1.0
    while share(high) > bias and high < _MOST_STEPS:
        low, high = high, 2 * high
    while high - low > 0.01 * high + 1:
        middle = (low + high) / 2
        low, high = (middle, high) if share(middle) > bias else (low, middle)
    return Prediction(share(depth), high)


def missing_part(
    operator: LinearOperator,
    residual: Float[Tensor, "p k"],
    cost: float,
    not_positive: Callable[[float], Exception],
) -> Float[Tensor, "p k"]:
    """`C_λ⁻¹ r`, loosely, by conjugate gradients: the whole error, bias and noise.

    Args:
        cost: of the steps taken, in full products.
    """
    steps = int(min(max(_SHARE * cost, _FEWEST), _MOST))
    run = BlockIteration(operator, None, not_positive).run(
        residual, _LOOSE * residual.norm(dim=0), 1, look_ahead=steps - 1
    )
    return run.x if run.missing is None else run.x + run.missing


@dataclass(frozen=True)
class LissaVerdict:
    """Which columns converged, and what to say of the others."""

    converged: Bool[Tensor, " k"]
    reason: str


def judge(
    answer: Float[Tensor, " k"],
    noise: Float[Tensor, " k"],
    bias: Float[Tensor, " k"],
    *,
    aim: float,
    deeper: str,
    repeats: int,
) -> LissaVerdict:
    """An answer has converged where its error is mostly noise or below the bias asked for (`aim`), and
    together no more than a quarter of it.

    Args:
        answer, noise, bias: squared energy norms `xᵀC_λx`: what scores of gradients drawn from the curvature
            vary by.
        deeper: what would lower the bias, in words.
    """
    size = answer.clamp(min=torch.finfo(answer.dtype).tiny)
    spread, left = (noise / size).sqrt(), (bias / size).sqrt()
    biased = (left > _CLEAR * spread) & (left > aim)
    noisy = torch.hypot(spread, left) > _POOR
    reasons = []
    if bool((biased | (noisy & (left > spread))).any()):
        reasons.append(
            f"about {float(left.max()):.0%} of the answer is missing, against {float(spread.max()):.0%} of "
            f"noise: {deeper}"
        )
    if bool((noisy & ~biased & (spread >= left)).any()):
        worst = float(spread.max())
        enough = min(math.ceil(repeats * (worst / _POOR) ** 2) + 1, 10**9)
        reasons.append(
            f"the noise of the mini-batches is {worst:.0%} of the answer: use repeats={enough} or a larger "
            "batch_size"
        )
    return LissaVerdict(~(biased | noisy).cpu(), "; ".join(reasons))
