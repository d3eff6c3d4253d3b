"""DataInf: the mean of the inverses in the place of the inverse of the mean."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.linalg import FactoredOperator, LinearOperator, split_diagonal
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.fixed_inverse import OneApplication
from wherefrom.solvers.floor import eigenvalue_floor, lacking

Layers = Literal["module", "all"]


class DataInf(Solver):
    """`(D + (1/n) Σ F_i F_iᵀ)⁻¹ ≈ (1/n) Σ (D + F_i F_iᵀ)⁻¹`, every term in closed form.

    With `F_i` the `p × r` root of one example's curvature and `D` the diagonal of damping and weight decay,
    `(D + F_i F_iᵀ)⁻¹ = D⁻¹ − D⁻¹ F_i (I + F_iᵀ D⁻¹ F_i)⁻¹ F_iᵀ D⁻¹`. For `curvature="empirical_fisher"` `r`
    is 1 and `F_i` the example's gradient: the paper's formula. For a GGN or Fisher `r` is the number of
    outputs.

    The swap has no bound: the inverse is convex, so the result is never below `C_λ⁻¹` (of each layer), and it
    is far above it where `D` is small against the gradients. Only for damping of the size of a single
    example's curvature are the two close; the paper damps each layer by a tenth of its mean squared gradient
    entry. Orders of scores are kept better than their sizes. The error is measured, not bounded: by the
    residual against the full operator, and by the best multiple of DataInf's own answer to that residual.

    Args:
        layers: `"module"`, the paper's: each module's parameters by themselves, products between them left
            out; or `"all"` parameters together.

    Cost: a pass over explicit per-example roots a solve, `4 n r p` operations a column and `n r² p` once;
    twice that and 2 products for the error. Nothing is kept.

    Source: Kwon, Wu, Wu & Zou 2024, *DataInf: efficiently estimating data influence in LoRA-tuned LLMs and
    diffusion models*, equation (5).

    Raises:
        InputError: an unknown `layers`.
        UnsupportedError: (`prepare`) the curvature is no average of semi-definite terms of examples with a
            positive damping.
    """

    name = "datainf"

    def __init__(self, layers: Layers = "module"):
        if layers not in ("module", "all"):
            raise InputError(f"layers={layers!r}: expected 'module' or 'all'")
        self.layers = layers

    def settings(self) -> dict[str, Any]:
        return {"solver": self.name, "layers": self.layers}

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        rest, diagonal = split_diagonal(operator)
        factor = rest[0] if len(rest) == 1 else None
        if (
            not isinstance(factor, FactoredOperator)
            or factor.lower_bound < 0
            or not bool((diagonal > 0).all())
        ):
            raise UnsupportedError(
                "DataInf needs C = diagonal + (1/n) Σ F_iF_iᵀ with a positive diagonal: a GGN, Fisher or "
                f"empirical Fisher with damping or weight decay on every parameter; found "
                f"{lacking(operator)}. Use curvature='ggn' with damping > 0, or another solver."
            )
        return _PreparedDataInf(operator, factor, diagonal, self, seed)


class _PreparedDataInf(OneApplication):
    name = "DataInf"

    def __init__(
        self,
        operator: LinearOperator,
        factor: FactoredOperator,
        diagonal: Float[Tensor, " p"],
        settings: DataInf,
        seed: int,
    ):
        bound, proven = eigenvalue_floor(operator, seed)
        super().__init__(operator, bound, proven)
        self._factor = factor
        self._root = diagonal.sqrt()
        layers = factor.layers if settings.layers == "module" else {"": [slice(0, operator.size)]}
        self._layers = list(layers.values())
        self.notes = {"layers": len(self._layers), "bounded": False}

    def _apply_inverse(self, rhs: Float[Tensor, "p k"]) -> Float[Tensor, "p k"]:
        """`D^{-1/2} [I − (1/n) Σ F̃_i (I + F̃_iᵀF̃_i)⁻¹ F̃_iᵀ] D^{-1/2} v` by layers, with `F̃ = D^{-1/2} F`."""
        assert self._factor.n_examples is not None
        n = self._factor.n_examples
        scaled = rhs / self._root[:, None]
        total = torch.zeros_like(scaled)
        with progress_bar("DataInf", n) as bar:
            for rows in self._factor.factor_examples():
                weighted = rows / self._root
                for parts in self._layers:
                    change = _term(_gather(weighted, parts, 2), _gather(scaled, parts, 0))
                    start = 0
                    for part in parts:
                        size = part.stop - part.start
                        total[part] += change[start : start + size]
                        start += size
                bar.advance(rows.shape[0])
        return (scaled - total / n) / self._root[:, None]


def _gather(values: Tensor, parts: list[slice], dim: int) -> Tensor:
    """The entries of a layer along `dim`."""
    pieces = [values.narrow(dim, part.start, part.stop - part.start) for part in parts]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)


def _term(rows: Float[Tensor, "b r q"], vectors: Float[Tensor, "q k"]) -> Float[Tensor, "q k"]:
    """`Σ_i F_i (I + F_iᵀF_i)⁻¹ F_iᵀ V` for `rows = F_iᵀ`; the `r × r` systems in float64."""
    b, r, q = rows.shape
    gram = (rows @ rows.mT).double()
    gram.diagonal(dim1=1, dim2=2).add_(1)
    inner = (rows @ vectors).double()
    solved = torch.cholesky_solve(inner, torch.linalg.cholesky(gram))
    return rows.reshape(b * r, q).T @ solved.reshape(b * r, -1).to(rows.dtype)
