"""A block of studied parameters whose per-example gradient has one form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

Kind = Literal["matrix", "tokens", "rows"]


@dataclass(frozen=True)
class Block:
    """Parameters of one module, seen as `g` matrices of `o × i`: the unit of Kronecker curvature.

    Attributes:
        name: of the module, with the part of it where a module has several blocks.
        rule: name of the layer rule that makes its gradients.
        kind: `"matrix"`: the gradient is `Σ_t δ_t a_tᵀ`; `"tokens"`: the same with one-hot `a_t`, kept as
            indices (`i` tokens, `o` features); `"rows"`: an explicit vector (`g = i = 1`).
        parameters: names of the parameters that lie in it.
        index: where each entry of the matrices lies in the flat vector `θ`, shape `(g, o, i)`.
        sequence: whether positions are tokens of a sequence, some of which may be padding; positions whose
            gradient vanishes are then left out of the activations' covariance.
    """

    name: str
    rule: str
    kind: Kind
    parameters: tuple[str, ...]
    index: Int[Tensor, "g o i"]
    sequence: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(g, o, i)`."""
        g, o, i = self.index.shape
        return g, o, i

    @property
    def size(self) -> int:
        """Number of parameters in it."""
        return self.index.numel()

    def gather(self, vectors: Tensor) -> Tensor:
        """The block's entries of flat vectors `(p, k)`, as `(k, g, o, i)`."""
        picked = vectors.index_select(0, self.index.reshape(-1))
        return picked.T.reshape(vectors.shape[1], *self.index.shape)

    def scatter(self, matrices: Tensor, into: Tensor) -> None:
        """Write `(k, g, o, i)` to the block's entries of flat vectors `into (p, k)`."""
        into.index_copy_(0, self.index.reshape(-1), matrices.reshape(matrices.shape[0], -1).T)
