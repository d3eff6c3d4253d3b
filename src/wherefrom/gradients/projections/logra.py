"""Layer-wise two-sided projections: each layer's gradient `G` becomes `P_o G P_iᵀ`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.gradients.projections.base import BoundProjection, Projection, centred_signs, positive
from wherefrom.gradients.projections.layer_blocks import MatrixBlock, matrix_blocks
from wherefrom.gradients.projections.random_words import ORTHOGONAL, philox
from wherefrom.task import ParameterSet


class LoGra(Projection):
    """For each layer `G (o × i) ↦ P_o G P_iᵀ` with random orthonormal rows, scaled so that `E[PᵀP] = I`.

    Where gradients are sums of outer products, `G = Σ_t δ_t a_tᵀ`, each side is projected before they are
    formed: `Σ_t (P_o δ_t)(P_i a_t)ᵀ`. A layer's bias is one more column of its matrix. A side of one (the
    columns of a norm's scale) stays as it is.

    Args:
        rank_in: rows of `P_i`.
        rank_out: rows of `P_o`.
        seed: of the orthonormal rows.
        clip: keep a side smaller than its rank whole, by a square orthogonal matrix, instead of refusing it.

    The matrices do not depend on how gradients are batched; results do by rounding.

    Raises:
        InputError: a rank below 1, or a seed that is no integer; on binding, a layer smaller than a rank
            without `clip`.

    Source: Choe et al. 2024 (LoGra), §3.1; the rows are Haar-distributed (Mezzadri 2007).
    """

    name = "logra"

    def __init__(self, rank_in: int, rank_out: int, seed: int = 0, clip: bool = False):
        super().__init__(seed)
        self.rank_in = positive("rank_in", rank_in, "the rank kept of a layer's inputs")
        self.rank_out = positive("rank_out", rank_out, "the rank kept of a layer's outputs")
        self.clip = bool(clip)

    def bind(self, parameters: int | ParameterSet | Sequence[MatrixBlock]) -> BoundLoGra:
        """The map for all parameters of a set, each weight with the bias beside it, or for blocks that hold
        every parameter once."""
        if isinstance(parameters, ParameterSet):
            parameters = matrix_blocks(parameters)
        if isinstance(parameters, int) or not parameters:
            raise InputError(
                f"parameters={parameters!r}: LoGra projects each layer's matrix and needs the layers' "
                "shapes. Bind it to a ParameterSet (an Objective's .parameters), or use Rademacher, Gaussian "
                "or SparseJL."
            )
        layers = [
            LayerProjection(block, *self._sides(number, block)) for number, block in enumerate(parameters)
        ]
        return BoundLoGra(sum(block.index.numel() for block in parameters), layers)

    def settings(self) -> dict[str, Any]:
        return {
            "projection": self.name,
            "rank_in": self.rank_in,
            "rank_out": self.rank_out,
            "seed": self.seed,
            "clip": self.clip,
        }

    def _sides(self, number: int, block: MatrixBlock) -> tuple[Tensor, Tensor]:
        _, rows, columns = block.index.shape
        wanted = (("rank_out", self.rank_out, rows), ("rank_in", self.rank_in, columns))
        sides = []
        for side, (label, rank, size) in enumerate(wanted):
            if rank > size > 1 and not self.clip:
                raise InputError(
                    f"{label}={rank}: the matrix of {block.name!r} is {rows} × {columns} (outputs × inputs, "
                    f"bias included), so at most {size} can be kept. Lower {label}, or pass clip=True to "
                    "keep such sides whole."
                )
            made = orthonormal_rows(min(rank, size), size, self.seed, number, side)
            sides.append(made.to(block.index.device))
        return sides[0], sides[1]


def orthonormal_rows(rank: int, size: int, seed: int, layer: int, side: int) -> Float[Tensor, "r d"]:
    """Uniformly distributed orthonormal rows times `√(size/rank)`, so that `E[PᵀP] = I`; float64."""
    drawn = np.random.Generator(philox(seed, ORTHOGONAL, layer, side)).standard_normal((size, rank))
    q, r = np.linalg.qr(drawn)
    rows = (q * np.sign(np.diagonal(r))).T * math.sqrt(size / rank)
    return torch.from_numpy(np.ascontiguousarray(rows))


class LayerProjection:
    """The two sides of one block of `g` matrices of `o × i`, which share them.

    Attributes:
        block: where its entries lie.
        left: `P_o`, `(r_o, o)`; right: `P_i`, `(r_i, i)`, both scaled, float64.
        k: components, `g · r_o · r_i`.
    """

    def __init__(self, block: MatrixBlock, left: Float[Tensor, "ro o"], right: Float[Tensor, "ri i"]):
        self.block = block
        self.left = left
        self.right = right
        self.k = block.index.shape[0] * left.shape[0] * right.shape[0]

    def project(self, matrices: Float[Tensor, "b g o i"]) -> Float[Tensor, "b k"]:
        """`P_o G P_iᵀ`, row-major."""
        left, right = self.left.to(matrices), self.right.to(matrices)
        return (left @ (matrices @ right.T)).flatten(1)

    def project_factored(
        self, activations: Float[Tensor, "b t g i"], gradients: Float[Tensor, "k b t g o"]
    ) -> Float[Tensor, "k b components"]:
        """`Σ_t (P_o δ_t)(P_i a_t)ᵀ`, row-major, without forming `G = Σ_t δ_t a_tᵀ`.

        Args:
            activations: `a`, what the matrix is multiplied with, a one at the end where it holds a bias.
            gradients: `δ`, with respect to the product, for `k` quantities.

        Cost per example and position: `i·r_i + k·(o·r_o + r_o·r_i)` multiplications.

        Raises:
            InputError: sizes other than this block's.
        """
        self._check(gradients, activations.shape[3])
        return self._outer(activations @ self.right.to(activations).T, gradients)

    def project_tokens(
        self, tokens: Int[Tensor, "b t"], gradients: Float[Tensor, "k b t o"]
    ) -> Float[Tensor, "k b components"]:
        """The same for one-hot activations (an embedding's tokens), given as indices."""
        self._check(gradients[:, :, :, None], self.right.shape[1])
        picked = self.right.to(gradients).T[tokens]
        return self._outer(picked[:, :, None], gradients[:, :, :, None])

    def adjoint(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "b g o i"]:
        """`P_oᵀ Y P_i`."""
        left, right = self.left.to(rows), self.right.to(rows)
        return left.T @ rows.reshape(len(rows), -1, left.shape[0], right.shape[0]) @ right

    def _outer(self, inner: Tensor, gradients: Float[Tensor, "k b t g o"]) -> Float[Tensor, "k b components"]:
        outer = gradients @ self.left.to(gradients).T
        return torch.einsum("kbtgo,btgi->kbgoi", outer, inner).flatten(2)

    def _check(self, gradients: Float[Tensor, "k b t g o"], inputs: int) -> None:
        expected = tuple(self.block.index.shape)
        found = (gradients.shape[3], gradients.shape[4], inputs)
        if found != expected:
            raise InputError(
                f"activations and gradients belong to {found[0]} matrices of {found[1]} × {found[2]}; "
                f"{self.block.name!r} has {expected[0]} of {expected[1]} × {expected[2]}. Pass what entered "
                "and left this layer, with a one at the end of the activations where it has a bias."
            )


class BoundLoGra(BoundProjection):
    """The layers' projections one after another.

    Attributes:
        layers: one for each block of parameters, in the order of their components.
    """

    def __init__(self, p: int, layers: list[LayerProjection]):
        super().__init__(p, sum(layer.k for layer in layers))
        self.layers = layers

    def _apply(self, rows: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        return torch.cat([layer.project(layer.block.gather(rows)) for layer in self.layers], dim=1)

    def _adjoint(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "b p"]:
        made = rows.new_empty(len(rows), self.p)
        for layer, part in zip(self.layers, rows.split([layer.k for layer in self.layers], dim=1)):
            layer.block.scatter(layer.adjoint(part), made)
        return made

    def resampled(self, draws: int, seed: int) -> Float[Tensor, "draws k"]:
        """As a layer's components share rows of `P_o` and of `P_i`, whole rows are drawn anew and a component
        takes the product of its two weights (Owen 2007); rows of an orthonormal basis are drawn without
        replacement, so that a side kept whole does not change."""
        parts = []
        for number, layer in enumerate(self.layers):
            left, right = (
                math.sqrt(1 - matrix.shape[0] / matrix.shape[1])
                * centred_signs(draws, matrix.shape[0], seed + 2 * number + side)
                for side, matrix in enumerate((layer.left, layer.right))
            )
            both = ((1 + left[:, :, None]) * (1 + right[:, None]) - 1).flatten(1)
            parts.append(both.repeat(1, layer.block.index.shape[0]))
        return torch.cat(parts, dim=1)
