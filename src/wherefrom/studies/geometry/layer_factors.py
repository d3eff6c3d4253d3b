"""What a layer contributes to the bound by itself: the size of its input, and the gain of its map."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.layers.convolution import patches
from wherefrom.studies.geometry.chain import CONVOLUTIONS, ChainLayer
from wherefrom.studies.geometry.evaluation import graphs
from wherefrom.studies.geometry.spectral_norms import BatchJacobian, SpectralNorms, largest_singular_values

# A matrix up to this many rows or columns has its singular values computed; beyond, by iteration.
EXACT = 1024


def smallest_gram_values(layer: ChainLayer) -> Float[Tensor, " b"]:
    """The largest `γ_i` with `‖∇_{W,b} f‖² ≥ γ_i ‖∂f/∂z‖²` for every `f`, per example, in float64.

    With what enters the map at the `s` positions as columns of `U` and, where the bias is studied, a last row
    of ones: `γ = λ_min(UᵀU)`, the smallest over the groups. One position: `‖h‖² + 1`. Zero where there are
    more positions than rows: other gradients `∂f/∂z` are then possible whose products with `Uᵀ` vanish.
    """
    rows = _columns(layer).double()  # (b, g, s, i)
    if "weight" not in layer.studied:
        rows = rows[..., :0]
    if "bias" in layer.studied:
        rows = torch.cat([rows, rows.new_ones(*rows.shape[:3], 1)], dim=3)
    positions, width = rows.shape[2:]
    if positions > width:
        return torch.zeros(rows.shape[0], dtype=torch.float64)
    if positions == 1:
        return rows.square().sum((2, 3)).amin(1).cpu()
    values = torch.linalg.eigvalsh(rows @ rows.mT)
    rounding = positions * torch.finfo(torch.float64).eps * values[..., -1]
    return (values[..., 0] - rounding).clamp(min=0.0).amin(1).cpu()


def weight_norm(
    layer: ChainLayer, *, iterations: int, generator: torch.Generator, share: int
) -> SpectralNorms:
    """Spectral norm of the map `h ↦ z`, the bias apart: of the matrix, or of the convolution as it acts on
    maps of this size."""
    weight = layer.values["weight"].detach()
    if not isinstance(layer.module, CONVOLUTIONS):
        if min(weight.shape) <= EXACT:
            value = torch.linalg.matrix_norm(weight.double(), ord=2).reshape(1).cpu()
            return SpectralNorms(value, torch.zeros_like(value), 0.0, 0)
        leaf = weight.new_zeros(1, weight.shape[1], requires_grad=True)
    else:
        leaf = torch.zeros_like(layer.inputs[:1], requires_grad=True)
    with graphs():
        made = _without_bias(layer, leaf)
    jacobian = BatchJacobian(made, tuple(made.shape), leaf)
    return largest_singular_values(jacobian, iterations=iterations, generator=generator, share=share)


def activation_norms(layer: ChainLayer) -> Float[Tensor, " b"]:
    """`‖h_t‖`, over all positions."""
    return layer.inputs.double().flatten(1).norm(dim=1).cpu()


def _columns(layer: ChainLayer) -> Float[Tensor, "b g s i"]:
    if isinstance(layer.module, CONVOLUTIONS):
        return patches(layer.module, layer.inputs, ones=False).transpose(1, 2)
    return layer.inputs.reshape(layer.inputs.shape[0], 1, -1, layer.inputs.shape[-1])


def _without_bias(layer: ChainLayer, inputs: Tensor) -> Tensor:
    own = {name: value.detach() for name, value in layer.values.items()}
    if "bias" in own:
        own["bias"] = torch.zeros_like(own["bias"])
    return torch.func.functional_call(layer.module, own, (inputs,))
