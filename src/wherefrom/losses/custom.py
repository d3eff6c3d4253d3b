"""Any function of (outputs, targets) that returns one loss per example; its curvature comes from autograd."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses._checks import require_finite, require_outputs
from wherefrom.losses.base import Loss


@final
@dataclass(frozen=True, eq=False)
class CustomLoss(Loss):
    """A loss `function(outputs, targets) -> (b,)` given by the user.

    The function must treat the examples one by one: example `i`'s loss may depend on row `i` of the outputs
    and the targets only. The outputs of an example are one block of `c` coupled values, `c` their number.
    Targets can be anything the function takes; only tensors among them, in dicts, lists and tuples too, are
    checked for NaN.

    Args:
        function: a callable, differentiable twice in the outputs, made of torch operations; called under
            `torch.func.vmap` with `b = 1`, so that what it does may depend on shapes, not on values.
        name: name in reports and manifests; the function's own by default. Values the function closes over
            are not visible to a manifest's fingerprint: put them into the name.
        convex: whether the loss is convex in the outputs. A statement of yours; used, and checked where a
            square root of the curvature is taken.
        range: the least and the most that the loss can be, such as `(0.0, math.inf)`. A statement of yours:
            predicted changes that leave it are shown as impossible.

    Raises:
        InputError: the function cannot be called, or, by any method, does not return one loss per example.
    """

    function: Any
    name: str = ""
    convex: bool = False
    range: tuple[float, float] = (-math.inf, math.inf)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(
                f"function is of type {type(self.function).__name__}; expected a callable (outputs, targets) "
                "-> (b,)."
            )
        if not self.name:
            object.__setattr__(self, "name", _qualified_name(self.function).rpartition(".")[2])

    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        losses = self.function(outputs, targets)
        expected = f"expected a tensor of shape ({outputs.shape[0]},), one loss per example"
        if not isinstance(losses, Tensor):
            raise InputError(f"loss {self.name!r} returned a {type(losses).__name__}; {expected}.")
        if losses.ndim == 0:
            raise InputError(
                f"loss {self.name!r} returned a scalar, a mean or a sum over the batch; {expected}. Return "
                "one loss per example, with torch's losses by "
                f"reduction='none'.{_builtin_advice(self.function)}"
            )
        if tuple(losses.shape) != (outputs.shape[0],):
            raise InputError(
                f"loss {self.name!r} returned shape {tuple(losses.shape)}; {expected}. Sum or average what "
                "belongs to an example, for instance losses.flatten(1).sum(1)."
            )
        return losses

    def validate(self, outputs: Tensor, targets: Any) -> None:
        require_outputs(outputs, self.name)
        for tensor in _tensors(targets):
            require_finite(tensor, "targets")
        with torch.enable_grad():
            losses = self(outputs.detach().requires_grad_(), targets)
        require_finite(losses.detach(), f"losses of {self.name!r}")
        if not losses.requires_grad:
            raise InputError(
                f"loss {self.name!r} does not depend on the outputs by differentiable torch operations; "
                "expected a differentiable function. Remove detach(), argmax, rounding or NumPy from it."
            )

    def to_blocks(self, values: Tensor, outputs: Tensor, targets: Any) -> Float[Tensor, "*k b s c"]:
        lead = values.shape[: values.ndim - outputs.ndim]
        return values.reshape(*lead, outputs.shape[0], 1, math.prod(outputs.shape[1:]))

    def from_blocks(self, blocks: Float[Tensor, "*k b s c"], outputs: Tensor, targets: Any) -> Tensor:
        return blocks.reshape(*blocks.shape[:-3], *outputs.shape)

    def hessian_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c c"]:
        """`∇²_f ℓ_i`, one column for all examples at a time: `c` double backward passes."""
        size = math.prod(outputs.shape[1:])
        pull_back = self._gradient_pull_back(outputs, targets)
        basis = torch.eye(size, dtype=outputs.dtype, device=outputs.device)
        columns = [pull_back(e.reshape(1, *outputs.shape[1:]).expand_as(outputs).contiguous()) for e in basis]
        blocks = torch.stack([column.reshape(outputs.shape[0], 1, size) for column in columns], dim=-1)
        return 0.5 * (blocks + blocks.mT)

    def hessian_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """`L` with `L Lᵀ = ∇²_f ℓ_i` by a float64 eigendecomposition, where no eigenvalue is negative.

        An eigenvalue counts as zero when its size is below `√ε` of the largest in the batch, `ε` the outputs'
        machine precision: that much is rounding.
        """
        blocks = self.hessian_blocks(outputs, targets)
        values, vectors = torch.linalg.eigh(blocks.double())
        largest = float(values.abs().max()) if values.numel() else 0.0
        negative = values < -largest * torch.finfo(outputs.dtype).eps ** 0.5
        if bool(negative.any()):
            example = int(negative.nonzero()[0, 0])
            declared = " although it was declared convex=True" if self.convex else ""
            raise UnsupportedError(
                f"loss {self.name!r} is not convex in the outputs{declared}: its Hessian for example "
                f"{example} of the batch has eigenvalue {float(values[example].min()):.3g} (largest in the "
                f"batch {largest:.3g}), so it has no real square root. Use curvature='hessian' with enough "
                "damping, or curvature='empirical_fisher'."
            )
        return (vectors * values.clamp(min=0.0).sqrt().unsqueeze(-2)).to(blocks.dtype)

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i`: a double backward pass per vector, or by the blocks if that takes fewer."""
        columns = vectors.reshape(-1, *outputs.shape)
        if columns.shape[0] > math.prod(outputs.shape[1:]):
            blocks = self.to_blocks(vectors, outputs, targets)
            product = torch.einsum("bscd,...bsd->...bsc", self.hessian_blocks(outputs, targets), blocks)
            return self.from_blocks(product, outputs, targets)
        pull_back = self._gradient_pull_back(outputs, targets)
        return torch.stack([pull_back(v) for v in columns]).reshape(vectors.shape)

    def settings(self) -> dict[str, Any]:
        return {
            "loss": "custom",
            "name": self.name,
            "convex": self.convex,
            "function": _qualified_name(self.function),
            "source_sha256": _source_hash(self.function),
        }

    def _gradient_pull_back(self, outputs: Tensor, targets: Any) -> Callable[[Tensor], Tensor]:
        """`v ↦ ∇²_f (Σ_i ℓ_i) v`: every example's Hessian at once, as no example's loss sees another."""
        gradient = torch.func.grad(lambda f: self(f, targets).sum())
        pull_back = torch.func.vjp(gradient, outputs)[1]
        return lambda v: pull_back(v)[0]


def _tensors(targets: Any) -> list[Tensor]:
    if isinstance(targets, Tensor):
        return [targets]
    if isinstance(targets, dict):
        targets = list(targets.values())
    return (
        [tensor for part in targets for tensor in _tensors(part)]
        if isinstance(targets, (list, tuple))
        else []
    )


def _qualified_name(function: Callable[..., Any]) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _source_hash(function: Callable[..., Any]) -> str | None:
    """Hash of the function's source text; `None` where Python has none, as in an interactive session."""
    try:
        source = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()


def _builtin_advice(function: Callable[..., Any]) -> str:
    advice = {
        torch.nn.functional.cross_entropy: "loss='cross_entropy'",
        torch.nn.functional.binary_cross_entropy_with_logits: "loss='binary_cross_entropy'",
        torch.nn.functional.mse_loss: "loss=wherefrom.SquaredError(scale=1.0, reduction_over_outputs='mean')",
    }.get(function)
    return f" For {_qualified_name(function)} pass {advice}." if advice else ""
