"""The contract of a loss: one number per example, and its curvature in the model's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Loss(ABC):
    """A per-example loss `ℓ(f, y)` as a function of the outputs `f`, apart from the model that made them.

    Outputs have shape `(b, ...)`. The curvature `S_i = ∇²_f ℓ_i` is block diagonal: `to_blocks` views the outputs
    of an example as `s` independent positions of `c` coupled values (`s` tokens of `c` class scores, `s`
    independent regression targets with `c = 1`, one block of `c` logits …).

    Attributes:
        name: short name used in reports and manifests.
        convex: whether `ℓ` is convex in `f`, so that `S_i` is positive semi-definite.
    """

    name: str
    convex: bool

    @abstractmethod
    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        """Losses of shape `(b,)`, one per example, never averaged over the batch. Differentiable, vmap-able."""

    @abstractmethod
    def validate(self, outputs: Tensor, targets: Any) -> None:
        """Raise `InputError` for wrong shapes, labels out of range, or non-finite targets."""

    @abstractmethod
    def to_blocks(self, values: Tensor, outputs: Tensor, targets: Any) -> Float[Tensor, "*k b s c"]:
        """View values shaped like the outputs, with any leading dimensions `*k`, as `(*k, b, s, c)`."""

    @abstractmethod
    def from_blocks(self, blocks: Float[Tensor, "*k b s c"], outputs: Tensor, targets: Any) -> Tensor:
        """Inverse of `to_blocks`: back to `(*k, *outputs.shape)`."""

    @abstractmethod
    def hessian_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c c"]:
        """`∇²_f ℓ_i`, block by block."""

    @abstractmethod
    def hessian_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """`L` with `L Lᵀ = ∇²_f ℓ_i`, block by block.

        Raises:
            UnsupportedError: the loss is not convex in the outputs, so no real square root exists.
        """

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i` for `vectors` of shape `(*k, *outputs.shape)`. Closed forms override this default."""
        blocks = self.to_blocks(vectors, outputs, targets)
        product = torch.einsum("bscd,...bsd->...bsc", self.hessian_blocks(outputs, targets), blocks)
        return self.from_blocks(product, outputs, targets)

    def fisher_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """`L` with `L Lᵀ = E_{y ~ model}[∇_f ℓ ∇_f ℓᵀ]`: the exact expectation over the model's own labels.

        Raises:
            UnsupportedError: the loss is not the negative logarithm of a likelihood.
        """
        from whence.errors import UnsupportedError

        raise UnsupportedError(
            f"loss {self.name!r} is not the negative logarithm of a likelihood, so labels cannot be drawn from the "
            "model. Use curvature='ggn' or curvature='empirical_fisher'."
        )

    def sample_gradients(
        self, outputs: Tensor, targets: Any, generator: torch.Generator
    ) -> Float[Tensor, "b s c"]:
        """`∇_f ℓ(f, ỹ)` for labels `ỹ` drawn from the model, in blocks, positions drawn independently.

        Raises:
            UnsupportedError: the loss is not the negative logarithm of a likelihood.
        """
        self.fisher_sqrt_blocks(outputs, targets)
        raise AssertionError("a likelihood defines both fisher_sqrt_blocks and sample_gradients")

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that defines the loss, as JSON values, for manifests and fingerprints."""
