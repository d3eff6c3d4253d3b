"""Softmax cross-entropy and the last layer in closed form.

With features `e ∈ R^d`, logits `z = W e (+ b)`, probabilities `p = softmax(z)` and a target `y` (one-hot or
class probabilities): `∂p/∂z = S(p) = diag(p) − p pᵀ`, the loss's gradient in the logits is `p − y` and its
Hessian `S(p)`, so that for the last layer alone the Hessian is `S(p) ⊗ e eᵀ` and equals the Gauss-Newton
matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.curvature.head import HeadHessian
from wherefrom.errors import InputError
from wherefrom.losses._softmax import softmax_curvature, softmax_curvature_apply, softmax_residual


def softmax_jacobian(logits: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c c"]:
    """`S(p) = diag(p) − p pᵀ`: Jacobian of softmax, and Hessian of cross-entropy in the logits.

    Symmetric, positive semi-definite, `S 1 = 0`. Its diagonal `p (1 − p)` keeps its relative accuracy for
    confident predictions, also in float32.
    """
    return softmax_curvature(torch.softmax(logits, dim=-1))


def softmax_jacobian_apply(
    logits: Float[Tensor, "*b c"], vectors: Float[Tensor, "*kb c"]
) -> Float[Tensor, "*kb c"]:
    """`S(p) v = p ∘ v − p (pᵀv)` in `O(c)`; `vectors` may have more leading dimensions than `logits`."""
    return softmax_curvature_apply(torch.softmax(logits, dim=-1), vectors)


class HeadGradient(NamedTuple):
    """A per-example gradient of cross-entropy, split by the chain rule at the last layer.

    Attributes:
        weight: `∇_W ℓ = (p − y) eᵀ`, shape `(b, c, d)`.
        bias: `∇_b ℓ = p − y`, also the gradient in the logits, shape `(b, c)`.
        features: `∇_e ℓ = Wᵀ (p − y)`, shape `(b, d)`; `(∂e/∂θ)ᵀ` of it is the gradient of what comes before.
    """

    weight: Float[Tensor, "b c d"]
    bias: Float[Tensor, "b c"]
    features: Float[Tensor, "b d"]


def head_gradient_split(
    features: Float[Tensor, "b d"],
    logits: Float[Tensor, "b c"],
    targets: Int[Tensor, " b"] | Float[Tensor, "b c"],
    weight: Float[Tensor, "c d"],
) -> HeadGradient:
    """Gradients of cross-entropy with respect to the last layer and to the features that enter it, per
    example.

    Args:
        features: `e`, the last layer's input.
        logits: `z = W e (+ b)`, the last layer's output.
        targets: class indices, or class probabilities that sum to one.
        weight: `W`.
    """
    p = torch.softmax(logits, dim=-1)
    residual = p - targets if targets.is_floating_point() else softmax_residual(p, targets)
    return HeadGradient(residual.unsqueeze(2) * features.unsqueeze(1), residual, residual @ weight)


def head_hessian(
    features: Float[Tensor, "n d"],
    logits: Float[Tensor, "n c"],
    include_bias: bool,
    weights: Float[Tensor, " n"] | None = None,
    *,
    dtype: torch.dtype | None = None,
    workspace: int | None = None,
) -> Float[Tensor, "p p"]:
    """Hessian of the mean softmax cross-entropy in the last layer: `(1/n) Σ_i w_i S(p_i) ⊗ ẽ_i ẽ_iᵀ`.

    The layout is that of the parameters: `W` row by row (`c·d` values), then `b` (`c` values) with
    `include_bias`. Costs `c(c − 1)/2` weighted Gram products of about `5/8 · 2nd²` operations: `S 1 = 0`
    gives the diagonal blocks as minus the sum of the others, without cancellation, and every block is
    symmetric. Memory is the result and `workspace`.

    Args:
        features: the layer's input.
        logits: the layer's output.
        include_bias: whether the layer has a bias that is studied.
        weights: one factor per example in the mean; none means ones.
        dtype: of the computation and the result; that of the features by default. `torch.float64` with
            float32 features converts chunk by chunk.
        workspace: bytes that may be used beside the result; 128 MiB by default.

    Raises:
        InputError: no examples.
    """
    n, classes = logits.shape
    head = HeadHessian(
        features.shape[1],
        classes,
        include_bias=include_bias,
        rows_sum_to_zero=True,
        dtype=dtype or features.dtype,
        device=features.device,
        workspace=workspace,
    )
    head.add_softmax(features, torch.softmax(logits.to(head.dtype), dim=-1), weights)
    return head.dense(_positive(n))


def blockwise_head_hessian(
    features: Float[Tensor, "n d"],
    blocks: Float[Tensor, "n c c"],
    *,
    include_bias: bool = False,
    rows_sum_to_zero: bool = False,
    dtype: torch.dtype | None = None,
    workspace: int | None = None,
) -> Float[Tensor, "p p"]:
    """`(1/n) Σ_i S_i ⊗ ẽ_i ẽ_iᵀ` for any symmetric output curvatures `S_i`: a linear last layer under any
    loss.

    Class-major: index `c·d + j` is weight `W[c, j]`, followed by the `c` biases with `include_bias`.
    (Features with a column of ones of their own give every class its bias as the last of its `d` entries
    instead.)

    Args:
        features: the layer's input.
        blocks: `S_i`; the upper triangles are read.
        include_bias: add the rows and columns of a bias, after all weights.
        rows_sum_to_zero: promise that `S_i 1 = 0`, which saves the diagonal's `c` of `c(c + 1)/2` products.
        dtype, workspace: as in `head_hessian`.

    Raises:
        InputError: no examples.
    """
    head = HeadHessian(
        features.shape[1],
        blocks.shape[1],
        include_bias=include_bias,
        rows_sum_to_zero=rows_sum_to_zero,
        dtype=dtype or features.dtype,
        device=features.device,
        workspace=workspace,
    )
    head.add(features, blocks)
    return head.dense(_positive(features.shape[0]))


def _positive(n: int) -> int:
    if n == 0:
        raise InputError("the head's Hessian is a mean over examples and there are none; expected n ≥ 1.")
    return n
