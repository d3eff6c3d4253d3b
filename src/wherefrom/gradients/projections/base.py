"""The contract of a projection: settings first, then a linear map `P: R^p → R^k` with its adjoint."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.task import ParameterSet


class Projection(ABC):
    """How gradients are projected; holds settings only and serves any model.

    Args:
        seed: any integer; the same one gives the same map, on every device.

    Raises:
        InputError: a seed that is no integer.
    """

    name: str

    def __init__(self, seed: int = 0):
        self.seed: int = whole("seed", seed)

    @abstractmethod
    def bind(self, parameters: int | ParameterSet) -> BoundProjection:
        """The map for these parameters, or for vectors of this many numbers where shapes do not matter.

        Raises:
            InputError: a size below 1, or settings that do not fit these parameters.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON values that define the map, for manifests and fingerprints."""


class BoundProjection(ABC):
    """A linear map `P: R^p → R^k` with `E[PᵀP] = I` over seeds: inner products are kept in the mean.

    Attributes:
        p, k: sizes of its two sides.
    """

    def __init__(self, p: int, k: int):
        self.p = p
        self.k = k

    def apply(self, rows: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        """`P g` for every row, `(b, p) → (b, k)`, in the rows' dtype.

        Raises:
            InputError: rows of another length than `p`.
        """
        return self._apply(_checked(rows, self.p, "p"))

    def adjoint(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "b p"]:
        """`Pᵀ y` for every row, `(b, k) → (b, p)`, in the rows' dtype.

        Raises:
            InputError: rows of another length than `k`.
        """
        return self._adjoint(_checked(rows, self.k, "k"))

    @abstractmethod
    def _apply(self, rows: Float[Tensor, "b p"]) -> Float[Tensor, "b k"]:
        """`apply` on rows of the right length."""

    @abstractmethod
    def _adjoint(self, rows: Float[Tensor, "b k"]) -> Float[Tensor, "b p"]:
        """`adjoint` on rows of the right length."""

    def resampled(self, draws: int, seed: int) -> Float[Tensor, "draws k"]:
        """Random changes `Δ` of the components' weights, with the covariance that drawing the components anew
        would have (the infinitesimal jackknife, Efron 1982, ch. 6): `Pᵀ(I + Δ)P` stands for another seed's
        `PᵀP`.

        On the CPU, in float64. Independent components: independent signs, less their mean.
        """
        return centred_signs(draws, self.k, seed)

    def expected_inner_error(self, cosine: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        """Root mean square over seeds of `(⟨Px, Py⟩ − ⟨x, y⟩) / (‖x‖ ‖y‖)` for vectors at this cosine:
        `√((1 + cos²)/k)`.

        It is that of independent normal entries, to first order also of signs and sparse signs, and a
        yardstick for projections with more structure, which may do worse.
        """
        return ((1 + cosine.square()) / self.k).sqrt()

    def expected_norm_error(self) -> float:
        """Root mean square over seeds of `‖Px‖/‖x‖ − 1`: about `√(1/(2k))`."""
        return math.sqrt(1 / (2 * self.k))


def centred_signs(draws: int, count: int, seed: int) -> Float[Tensor, "draws count"]:
    """Independent signs, each row less its mean, scaled to the variance that signs have; a lone sign stays as
    it is."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    signs = 2.0 * torch.randint(2, (draws, count), generator=generator).double() - 1
    if count == 1:
        return signs
    return (signs - signs.mean(1, keepdim=True)) * math.sqrt(count / (count - 1))


def size_of(parameters: int | ParameterSet) -> int:
    """`p` of what a projection is bound to.

    Raises:
        InputError: no positive size.
    """
    if isinstance(parameters, ParameterSet):
        return parameters.size
    return positive("p", parameters, "the number of parameters")


def positive(name: str, value: Any, what: str) -> int:
    """`value` as an integer of at least 1.

    Raises:
        InputError: it is none.
    """
    return whole(name, value, 1, expected=f"{what}, a whole number of at least 1")


def _checked(rows: Float[Tensor, "b wide"], size: int, side: str) -> Float[Tensor, "b wide"]:
    if rows.shape[1] != size:
        raise InputError(
            f"rows have {rows.shape[1]:,} entries, but the projection was bound to {side} = {size:,}. Bind "
            "it to the parameters these rows belong to."
        )
    return rows
