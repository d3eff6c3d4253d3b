"""The contract of a loss: one number per example, and its curvature in the model's outputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import UnsupportedError


class Loss(ABC):
    """A per-example loss `ℓ(f, y)` as a function of the outputs `f`, apart from the model that made them.

    Outputs have shape `(b, ...)`. The curvature `S_i = ∇²_f ℓ_i` is block diagonal: `to_blocks` views the
    outputs of an example as `s` independent positions of `c` coupled values (`s` tokens of `c` class scores,
    `s` independent regression targets with `c = 1`, one block of `c` logits …).

    Attributes:
        name: short name used in reports and manifests.
        convex: whether `ℓ` is convex in `f`, so that `S_i` is positive semi-definite.
        shift_invariant: whether adding a constant to all `c` values of a block changes nothing, so that
            `S_i 1 = 0`.
        roots_by_parts: whether `hessian_sqrt_part` and `fisher_sqrt_part` make what is asked of them without
            making the rest: needed where `s·c` is large (a vocabulary, an image).
        range: the least and the most that `ℓ` can be; infinite where it has no end or none is known.
    """

    name: str
    convex: bool
    shift_invariant: bool = False
    roots_by_parts: bool = False
    range: tuple[float, float] = (-math.inf, math.inf)

    @abstractmethod
    def __call__(self, outputs: Tensor, targets: Any) -> Float[Tensor, " b"]:
        """Losses of shape `(b,)`, one per example, never averaged over the batch.

        Differentiable twice, in both modes, and vmap-able: what it does depends on shapes only, never on
        values.
        """

    def output_gradient(self, outputs: Tensor, targets: Any) -> Tensor:
        """`∇_f ℓ_i`, shaped like the outputs, detached.

        By autograd, which subtracts what a confident prediction has made nearly equal; closed forms that do
        not override this default.
        """
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (made,) = torch.autograd.grad(self(leaf, targets).sum(), leaf)
        return made

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

    def root_columns(self, values: int) -> int:
        """Columns `r` of the square roots of blocks of `c = values` coupled values: known without making
        one."""
        return values

    def hessian_sqrt_part(
        self, outputs: Tensor, targets: Any, positions: slice, columns: slice
    ) -> Float[Tensor, "b s c r"]:
        """`hessian_sqrt_blocks(outputs, targets)[:, positions, :, columns]`."""
        return self.hessian_sqrt_blocks(outputs, targets)[:, positions, :, columns]

    def hessian_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`∇²_f ℓ_i v_i`, `vectors` of shape `(*k, *outputs.shape)`; closed forms override this default."""
        blocks = self.to_blocks(vectors, outputs, targets)
        product = torch.einsum("bscd,...bsd->...bsc", self.hessian_blocks(outputs, targets), blocks)
        return self.from_blocks(product, outputs, targets)

    def fisher_sqrt_blocks(self, outputs: Tensor, targets: Any) -> Float[Tensor, "b s c r"]:
        """`L` with `L Lᵀ` the Fisher information of each position, in the scale of the Hessian.

        The expectation over the model's own labels is exact: `L Lᵀ = r E_{ỹ ~ model}[u uᵀ]`, `u = ∇_f log
        p(ỹ|f)`, for a loss `ℓ = Σ_positions r (−log p(y|f))`. The weight `r` (`1` for a sum over positions,
        `1/T` for a mean over `T` tokens) enters once, like the `1/n` of the mean over examples, so that the
        Fisher equals the generalised Gauss-Newton matrix (Martens 2020, "New insights and perspectives on the
        natural gradient method", §9). Different positions are independent given the outputs: there are no
        cross terms.

        Raises:
            UnsupportedError: the loss is not the negative logarithm of a likelihood.
        """
        raise self._not_a_likelihood()

    def fisher_sqrt_part(
        self, outputs: Tensor, targets: Any, positions: slice, columns: slice
    ) -> Float[Tensor, "b s c r"]:
        """`fisher_sqrt_blocks(outputs, targets)[:, positions, :, columns]`."""
        return self.fisher_sqrt_blocks(outputs, targets)[:, positions, :, columns]

    def fisher_apply(self, vectors: Tensor, outputs: Tensor, targets: Any) -> Tensor:
        """`F_i v_i` with the Fisher of `fisher_sqrt_blocks`, position by position; closed forms override this
        default."""
        roots = self.fisher_sqrt_blocks(outputs, targets)
        inner = torch.einsum("bscr,...bsc->...bsr", roots, self.to_blocks(vectors, outputs, targets))
        return self.from_blocks(torch.einsum("bscr,...bsr->...bsc", roots, inner), outputs, targets)

    def sample_gradients(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """`√r ∇_f (−log p(ỹ|f))` for labels `ỹ` drawn from the model, each position independently.

        Args:
            outputs, targets: as for the loss.
            uniforms: one number strictly between 0 and 1 for each position, from which its label is drawn by
                inverting the distribution function: the same number draws the same label, whatever the batch.

        The expectation of its outer product is the Fisher of `fisher_sqrt_blocks`; for `r = 1` it is the
        gradient of the loss at the drawn label.

        Raises:
            UnsupportedError: the loss is not the negative logarithm of a likelihood.
        """
        raise self._not_a_likelihood()

    def sample_roots(
        self, outputs: Tensor, targets: Any, uniforms: Float[Tensor, "b s"]
    ) -> Float[Tensor, "b s c"]:
        """Random vectors `u` with `E[u uᵀ] = ∇²_f ℓ_i`, positions independent of one another: what stands in
        for the columns of `hessian_sqrt_blocks` where these are too many. For a likelihood a drawn gradient
        is one.

        Args:
            outputs, targets, uniforms: as for `sample_gradients`.

        Raises:
            UnsupportedError: the loss has no such vectors in closed form.
        """
        return self.sample_gradients(outputs, targets, uniforms)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Everything that defines the loss, as JSON values, for manifests and fingerprints."""

    def _not_a_likelihood(self, because: str = "") -> UnsupportedError:
        reason = f" ({because})" if because else ""
        return UnsupportedError(
            f"loss {self.name!r} is not the negative logarithm of a likelihood{reason}, so labels cannot be "
            "drawn from the model. Use curvature='ggn' or curvature='empirical_fisher'."
        )
