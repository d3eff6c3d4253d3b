"""How far rounding moves a gradient: the outputs are known to so many units of their dtype, and a gradient
`Jᵀ∇_f m` moves with them, by `‖JᵀS δf‖`, which is no share of its own size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.gradients.linearisation import Evaluated, Linearisation
from wherefrom.losses import CustomLoss, Loss
from wherefrom.task import Measure

# Random relative changes of all parameters by which the rounding of outputs is gauged, as many signs by which
# the size of the Jacobian is, and the examples it is done on.
_DRAWS = 4
PROBES = 16
# What the outputs are taken to be moved by at most, in units of that gauge.
MARGIN = 8.0
# Below this multiple of the smallest normal number a gradient has no digits.
_LOST = 64.0
# Autograd of a function that is not known in closed form subtracts numbers of this size.
_UNKNOWN = 1.0


@dataclass(frozen=True)
class GradientSizes:
    """Of a batch of `b` gradients.

    Attributes:
        norm: `‖g_i‖`.
        shaken: `g_i` is moved by about `eps · shaken` when the outputs are rounded.
    """

    norm: Float[Tensor, " b"]
    shaken: Float[Tensor, " b"]

    @property
    def relative(self) -> Float[Tensor, " b"]:
        """`shaken / norm`, at most what loses every digit."""
        return (self.shaken / self.norm.clamp(min=1e-300)).clamp(max=1e30)


@dataclass(frozen=True)
class OutputRounding:
    """How far rounding moves the outputs of an objective, in units of eps: measured on a few examples.

    Attributes:
        gauge: root of the sum of squares of `θ_j ∂f/∂θ_j`: what relative errors of eps in the products with
            the parameters add up to.
        largest: output on which that was measured.
        jacobian: `‖Jᵀu‖ / ‖u‖` for random signs `u`, the largest seen.
    """

    gauge: float
    largest: float
    jacobian: float

    def of_outputs(self, outputs: Tensor) -> Tensor:
        """Per example, shaped to broadcast to the outputs."""
        rows = outputs.reshape(outputs.shape[0], -1)
        ratio = (rows.abs().amax(1) / max(self.largest, 1e-300)).clamp(min=1.0)
        moved = torch.maximum(self.gauge * ratio, rows.abs().amax(1))
        return moved.reshape(-1, *[1] * (outputs.ndim - 1))

    def shaken(
        self, at: Evaluated, measure: Measure, cotangent: Tensor, norm: Float[Tensor, " b"]
    ) -> GradientSizes:
        """Sizes of the gradients `J_iᵀ u_i` of a batch, `u` the measure's gradient in the outputs.

        The outputs are moved against the measure's slopes by what rounding may do to them, and `u` is taken
        again; `‖J_i‖` is what it was for `u`.
        """
        eps = torch.finfo(cotangent.dtype).eps
        step = MARGIN * eps * self.of_outputs(at.outputs)
        signs = torch.where(cotangent < 0, -1.0, 1.0).to(cotangent)
        moved = _Moved(at.outputs + step * signs, at.targets).output_gradient(measure)
        change = _rows(moved - cotangent).double().norm(dim=1) / (MARGIN * eps)
        if not isinstance(measure, Loss) or isinstance(measure, CustomLoss):
            change = change + _UNKNOWN * max(1.0, float(cotangent.abs().max()))
        own = _rows(cotangent).double().norm(dim=1)
        lost = _LOST * torch.finfo(cotangent.dtype).tiny
        clear = own > lost
        norm = norm.double()
        jacobian = torch.where(clear, norm / own.clamp(min=lost), torch.full_like(own, self.jacobian))
        return GradientSizes(norm, jacobian * (change.nan_to_num(0.0, 0.0) + lost / eps))


class _Moved(Evaluated):
    def __init__(self, outputs: Tensor, targets: object):
        self.outputs = outputs
        self.targets = targets


def measure_rounding(at: Linearisation, parameters: Float[Tensor, " p"]) -> OutputRounding:
    """Of a few examples."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(len(parameters), _DRAWS, generator=generator, dtype=torch.float64)
    tangents = at.jvp(parameters[:, None] * draws.to(parameters))
    signs = torch.randint(2, (_DRAWS, *at.outputs.shape), generator=generator).to(at.outputs) * 2 - 1
    pulled = at.vjp_each(signs).double().norm(dim=2)
    width = max(at.outputs[0].numel(), 1)
    largest = float(at.outputs.abs().max())
    return OutputRounding(
        gauge=float(tangents.double().square().mean(0).max().sqrt()),
        largest=largest,
        jacobian=float(pulled.max()) / width**0.5,
    )


def _rows(values: Tensor) -> Float[Tensor, "b o"]:
    return values.reshape(values.shape[0], -1)
