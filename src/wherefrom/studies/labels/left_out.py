"""What the model would say of a training example had it not been trained on it, without training again.

Removing example `i` (the weights `1/n` of the others kept) and one Newton step from `θ̂` give
    `f_{−i} − f = (I − K S)⁻¹ K u`,   `K = J_i C_λ⁻¹ J_iᵀ / n`,   `u = ∇_f ℓ_i`,   `S = ∇²_f ℓ_i`,
by the Woodbury identity; for one output it is the familiar division by one minus the leverage `K S` (Pregibon
1981, "Logistic regression diagnostics"). `uᵀK u` is the self-influence over `n`: that gives `K` where the
outputs have one direction only, and its size along `u` elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.losses import Loss

# A removal that would leave less than this of the curvature in some direction is held there.
_LEAST_LEFT = 0.02
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class LeftOut:
    """Outputs of examples that are left out.

    Attributes:
        outputs: like the model's, one row per example, in float64 on the CPU.
        held: examples whose removal would have taken more than 98 % of the curvature in some direction of
            their outputs: a step that long is not to be trusted and was shortened to that.
    """

    outputs: Tensor
    held: int


def left_out_along_gradient(
    loss: Loss,
    outputs: Float[Tensor, " b *c"],
    targets: Tensor,
    gradients: Float[Tensor, " b *c"],
    self_influence: Float[Tensor, " b"],
    n: int,
    *,
    whole: bool = True,
) -> LeftOut:
    """Outputs of left-out examples, moved along `u` alone with `K = κI`, `κ = (self-influence) / (n ‖u‖²)`:
        `f + κ u / (1 − κ uᵀS u / ‖u‖²)`.

    Costs nothing beyond self-influence. The whole Newton step for a single output, and in the probabilities
    of a softmax of two classes: only one direction of the outputs matters there.

    A curvature that is an approximation (EK-FAC) holds no example's own share, and leverages computed from it
    may exceed one. Without `whole` that share is added first and no leverage taken off,
        `f + κ u / (1 + κ uᵀS u / ‖u‖²)`,
    a step to first order that cannot run away.

    Args:
        loss, outputs, targets: of the batch.
        gradients: `u`.
        self_influence: `g_iᵀ C_λ⁻¹ g_i`.
        n: training examples.
        whole: whether `C` is the sum over all examples, this one included.
    """
    f, u = outputs.double().cpu(), gradients.double().cpu()
    curved = loss.hessian_apply(u[None], f, targets.cpu())[0]
    squares, bent = (_per_example(u * values) for values in (u, curved))
    # Where the gradient vanishes, so does the self-influence: nothing moves.
    kappa = torch.where(squares > 0, self_influence.double() / (n * squares.clamp(min=_TINY)), 0.0)
    leverage = kappa * bent / squares.clamp(min=_TINY)
    left = 1.0 - leverage if whole else 1.0 + leverage
    factor = kappa / left.clamp(min=_LEAST_LEFT)
    return LeftOut(f + u * factor.reshape(-1, *[1] * (u.ndim - 1)), int((left < _LEAST_LEFT).sum()))


def left_out_exactly(
    loss: Loss,
    outputs: Float[Tensor, " b *c"],
    targets: Tensor,
    gradients: Float[Tensor, " b *c"],
    spread: Float[Tensor, "b o o"],
) -> LeftOut:
    """Outputs of left-out examples by the whole Newton step, `f + (I − K S)⁻¹ K u`.

    Args:
        loss, outputs, targets: of the batch.
        gradients: `u`.
        spread: `K`, of `wherefrom.influence.output_spread`.
    """
    b, width = spread.shape[:2]
    f = outputs.double().cpu()
    u = gradients.double().cpu().reshape(b, width, 1)
    curvature = loss.hessian_blocks(f, targets.cpu()).reshape(b, width, width)
    # In the root of K: K^½ (I − K^½ S K^½)⁻¹ K^½ u, symmetric, the eigenvalues being leverages.
    values, vectors = torch.linalg.eigh(spread)
    root = vectors * values.clamp(min=0.0).sqrt().unsqueeze(1) @ vectors.mT
    leverages, basis = torch.linalg.eigh(root @ curvature @ root)
    left = (1.0 - leverages).unsqueeze(2)
    step = root @ (basis @ ((basis.mT @ (root @ u)) / left.clamp(min=_LEAST_LEFT)))
    return LeftOut(f + step.reshape(f.shape), int((left < _LEAST_LEFT).any(1).sum()))


def _per_example(values: Float[Tensor, " b *c"]) -> Float[Tensor, " b"]:
    return values.flatten(1).sum(1) if values.ndim > 1 else values
