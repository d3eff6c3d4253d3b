"""Per-example gradients of one block on one batch, kept as the factors they are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor


class GradientForm(ABC):
    """Gradients `G_kb` of `b` examples for `k` cotangents each, as `g` matrices of `o × i`.

    Attributes:
        k, b: cotangents and examples.
        positions: summed over in each gradient.
        shape: `(g, o, i)`.
    """

    k: int
    b: int
    positions: int
    shape: tuple[int, int, int]

    @abstractmethod
    def rows(self) -> Float[Tensor, "k b m"]:
        """The gradients explicitly, row-major in `(g, o, i)`: `k · b · g · o · i` numbers."""

    @abstractmethod
    def inner(self, matrices: Float[Tensor, "q g o i"]) -> Float[Tensor, "k b q"]:
        """`⟨G_kb, X_q⟩`."""

    @abstractmethod
    def total(self) -> Float[Tensor, "k g o i"]:
        """`Σ_b G_kb`."""

    @abstractmethod
    def squares(self) -> Float[Tensor, "g o i"]:
        """`Σ_kb G_kb²`, entry by entry."""

    @abstractmethod
    def weighted_squares(self, weights: Float[Tensor, "g o i"]) -> Float[Tensor, "k b"]:
        """`Σ_goi w_goi (G_kb)²_goi`."""

    @abstractmethod
    def rotated(
        self, left: Float[Tensor, "g o o"] | None, right: Float[Tensor, "g i i"] | None
    ) -> GradientForm:
        """`Q_Bᵀ G Q_A` for the bases `Q_B = left`, `Q_A = right`; `None` is the identity."""

    @abstractmethod
    def activation_moment(self) -> tuple[Tensor, float]:
        """`Σ a aᵀ` over examples and positions (its diagonal `(i,)` where activations are one-hot), and how
        many positions were counted."""

    @abstractmethod
    def gradient_moment(self) -> Float[Tensor, "g o o"]:
        """`Σ δ δᵀ` over cotangents, examples and positions."""

    @abstractmethod
    def select(self, examples: slice) -> GradientForm:
        """The same for some of the examples."""

    def squared_norms(self) -> Float[Tensor, "k b"]:
        """`‖G_kb‖²`."""
        return self.rows().square().sum(2)
