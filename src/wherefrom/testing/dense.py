"""Every matrix of a small problem, dense and in float64, by plain `torch.func`: the oracle of the fast code.

It shares no code with the operators: per-example losses are differentiated as they stand.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel


class DenseProblem:
    """`J(θ) = (1/n) Σ ℓ_i(θ)` of a model on `n` examples, as functions of the flat parameter vector.

    Args:
        model: copied and converted to float64.
        forward: `model -> outputs (n, …)` on all examples; the inputs must be float64 already.
        loss: `outputs -> (n,)`, one loss per example, with the targets inside.
        names: parameters in `θ`, in the order of `model.named_parameters()`; all that require gradients by
            default.

    Attributes:
        theta: the parameters, flat, row-major.
        n, p: numbers of examples and parameters.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[Any], Tensor],
        loss: Callable[[Tensor], Tensor],
        names: Sequence[str] | None = None,
    ):
        self._module = _Called(copy.deepcopy(model).double(), forward)
        every = dict(self._module.model.named_parameters())
        self.names = [
            name for name in every if (every[name].requires_grad if names is None else name in names)
        ]
        self._shapes = [every[name].shape for name in self.names]
        self._loss = loss
        self.theta = torch.cat([every[name].detach().reshape(-1) for name in self.names])
        self.p = self.theta.numel()
        self.n = self.outputs(self.theta).shape[0]

    def outputs(self, theta: Float[Tensor, " p"]) -> Tensor:
        """Model outputs `(n, …)`."""
        parts = theta.split([shape.numel() for shape in self._shapes])
        named = {
            f"model.{name}": part.reshape(shape) for name, part, shape in zip(self.names, parts, self._shapes)
        }
        named |= {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self._module, named, ())

    def losses(self, theta: Float[Tensor, " p"]) -> Float[Tensor, " n"]:
        """Per-example losses."""
        return self._loss(self.outputs(theta))

    def gradients(self) -> Float[Tensor, "n p"]:
        """Per-example gradients."""
        return jacrev(self.losses)(self.theta)

    def jacobian(self) -> Float[Tensor, "n o p"]:
        """Derivative of the outputs, what belongs to an example in one dimension."""
        return jacrev(lambda theta: self.outputs(theta).reshape(self.n, -1))(self.theta)

    def hessian(self) -> Float[Tensor, "p p"]:
        """`(1/n) Σ ∇²ℓ_i`."""
        return hessian(lambda theta: self.losses(theta).sum())(self.theta) / self.n

    def output_hessians(self) -> Float[Tensor, "n o o"]:
        """`∇²_f ℓ_i`."""
        outputs = self.outputs(self.theta).detach()
        flat = outputs.reshape(self.n, -1)
        every = hessian(lambda f: self._loss(f.reshape(outputs.shape)).sum())(flat)
        return torch.stack([every[i, :, i] for i in range(self.n)])

    def ggn(self) -> Float[Tensor, "p p"]:
        """`(1/n) Σ J_iᵀ ∇²_f ℓ_i J_i`."""
        jacobian = self.jacobian()
        return torch.einsum("nop,noq,nqr->pr", jacobian, self.output_hessians(), jacobian) / self.n

    def fisher(self, weights: Float[Tensor, "n s"] | None = None) -> Float[Tensor, "p p"]:
        """Fisher of a softmax over the last dimension of the outputs, as an exact expectation over classes.

        Args:
            weights: of the `s` positions in each example's loss, zero where a target is ignored; ones by
                default.
        """
        classes = self.outputs(self.theta).shape[-1]

        def log_p(theta: Tensor) -> Tensor:
            return torch.log_softmax(self.outputs(theta), dim=-1).reshape(-1, classes)

        probabilities = log_p(self.theta).exp()
        scores = jacrev(log_p)(self.theta)  # (n·s, c, p): gradients of log p(y) for every label y
        if weights is not None:
            probabilities = probabilities * weights.reshape(-1, 1)
        return torch.einsum("ic,icp,icq->pq", probabilities, scores, scores) / self.n

    def empirical_fisher(self) -> Float[Tensor, "p p"]:
        """`(1/n) Σ g_i g_iᵀ`."""
        gradients = self.gradients()
        return gradients.T @ gradients / self.n


class _Called(nn.Module):
    def __init__(self, model: nn.Module, call: Callable[[Any], Tensor]):
        super().__init__()
        self.model = model
        self._call = call

    def forward(self) -> Tensor:
        return self._call(self.model)
