"""The terms of the gradient bound, layer by layer, summed up over the examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.studies.geometry import GradientBounds, LayerBound


@dataclass(frozen=True)
class BoundRow:
    """One layer of the bound `‖∇_x f‖² Σ_t (1 + ‖h_t‖²)/(‖W_t‖₂² ‖∇_x h_t‖₂²) ≤ ‖∇_θ f‖²`.

    Examples on which the layer's gradient vanishes have no tightness and are left out of it.

    Attributes:
        name: of the layer.
        kind: `"dense"`, `"convolution"` or `"residual"`.
        weight_norm: `‖W_t‖₂`.
        activation_norm: mean `‖h_t‖`, of what enters the layer.
        jacobian_norm: mean `‖∇_x h_t‖₂`.
        gradient_norm: mean `‖∇_θ_t f‖`.
        share: mean share of the layer's term in the sum.
        tightness: median of the layer's left side over its right side, at most 1; NaN if no example has
            one.
        low, high: tenth and ninetieth percentile of the same.
    """

    name: str
    kind: str
    weight_norm: float
    activation_norm: float
    jacobian_norm: float
    gradient_norm: float
    share: float
    tightness: float
    low: float
    high: float


def layer_rows(bounds: GradientBounds) -> list[BoundRow]:
    """Every layer's row, from the input on."""
    total = torch.stack([layer.term for layer in bounds.layers]).sum(0)
    return [_row(layer, total) for layer in bounds.layers]


def _row(layer: LayerBound, total: Float[Tensor, " b"]) -> BoundRow:
    low, middle, high = quantiles(layer.tightness, 0.1, 0.5, 0.9)
    return BoundRow(
        layer.name,
        layer.kind,
        layer.weight_norm,
        _mean(layer.activation_norm),
        _mean(layer.jacobian_norm),
        _mean(layer.gradient_norm),
        _mean(layer.term / total),
        middle,
        low,
        high,
    )


def violations(bounds: GradientBounds) -> int:
    """Examples whose left side exceeds the right one by more than rounding."""
    slack = 1 + 100 * torch.finfo(bounds.left.dtype).eps
    return int((bounds.left > slack * bounds.right).sum())


def quantiles(values: Float[Tensor, " b"], *at: float) -> list[float]:
    """Quantiles of the finite values; NaN where there are none."""
    finite = values[torch.isfinite(values)].double()
    if not len(finite):
        return [float("nan")] * len(at)
    return torch.quantile(finite, torch.tensor(at, dtype=finite.dtype, device=finite.device)).tolist()


def _mean(values: Float[Tensor, " b"]) -> float:
    finite = values[torch.isfinite(values)].double()
    return float(finite.mean()) if len(finite) else float("nan")
