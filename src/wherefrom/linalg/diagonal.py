"""The diagonal of an operator seen by products only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import choice, whole
from wherefrom.linalg.estimates import (
    dense_matrix,
    images,
    mean_and_standard_error,
    normal_columns,
    products_in_parts,
    sign_columns,
)
from wherefrom.linalg.leave_one_out import LeaveOneOutProbes, LeaveTwoOut, standard_error
from wherefrom.linalg.operators import LinearOperator

DIAGONAL_METHODS = ("xdiag", "diag++", "hutchinson")
# Float64 numbers in one intermediate of a part of the diagonal: few enough to stay in the cache.
_NUMBERS = 2**16


@dataclass(frozen=True)
class DiagonalEstimate:
    """An estimated diagonal.

    Attributes:
        values: `(p,)`, in the units of the operator; float64, on its device.
        standard_errors: of each entry over the random vectors; zeros where the diagonal was computed exactly.
        products: matrix-vector products spent.
    """

    values: Float[Tensor, " p"]
    standard_errors: Float[Tensor, " p"]
    products: int


def estimate_diagonal(
    operator: LinearOperator,
    *,
    products: int = 120,
    method: Literal["xdiag", "diag++", "hutchinson"] = "xdiag",
    seed: int = 0,
) -> DiagonalEstimate:
    """`diag C` from random signs, with standard errors; exact where `p ≤ products`.

    Args:
        operator: symmetric, any definiteness.
        products: to spend at most.
        method: `"hutchinson"`: the mean of `ω ⊙ C ω`, whose error at an entry comes from the rest of its row.
            `"diag++"`: exact on the span of `C Ω`, both sides deflated, and Hutchinson for the rest.
            `"xdiag"`: the same with every vector serving both purposes.
        seed: of the random vectors.

    Raises:
        InputError: an unknown method, or fewer products than it needs: 2 for `"hutchinson"`, 4 for
            `"xdiag"`, 6 for `"diag++"`.
        NonFiniteError: a product with NaN or infinity.

    Memory: `products` vectors of size `p`, for `"hutchinson"` a few.

    Source: Bekas, Kokiopoulou & Saad 2007, *An estimator for the diagonal of a matrix*; Baston & Nakatsukasa
    2022, *Stochastic diagonal estimation* (Diag++); Epperly, Tropp & Webber 2024, *XTrace*, §5 (XDiag). Here
    the deflation is two-sided, `C − (I−P) C (I−P)` exactly, which symmetry allows at no further product.
    """
    choice("method", method, DIAGONAL_METHODS)
    least = {"xdiag": 4, "diag++": 6, "hutchinson": 2}[method]
    whole("products", products, least, expected=f"a whole number of at least {least} for method={method!r}")
    p = operator.size
    if p <= products:
        values = dense_matrix(operator).diagonal().clone()
        return DiagonalEstimate(values, torch.zeros_like(values), p)
    generator = torch.Generator().manual_seed(seed)
    if method == "xdiag":
        return _xdiag(operator, sign_columns(operator, products // 2, generator))
    if method == "diag++":
        rank = products // 3
        return _diag_plus_plus(operator, rank, products - 2 * rank, generator)
    probes = sign_columns(operator, products, generator)
    mean = torch.zeros(p, dtype=torch.float64, device=operator.device)
    square = torch.zeros_like(mean)
    count = 0
    for part, image in products_in_parts(operator, probes, "Hutchinson's diagonal"):
        samples = (image * probes[:, part]).double()
        # Chan's update of a running mean and sum of squared deviations.
        new, own = samples.shape[1], samples.mean(1)
        square += (samples - own[:, None]).square().sum(1)
        square += (own - mean).square() * (count * new / (count + new))
        mean += (own - mean) * (new / (count + new))
        count += new
    return DiagonalEstimate(mean, (square / (count - 1) / count).sqrt(), products)


def _xdiag(operator: LinearOperator, probes: Tensor) -> DiagonalEstimate:
    split = LeaveOneOutProbes(operator, probes)
    two = LeaveTwoOut(split)
    m = probes.shape[1]
    step = max(1, _NUMBERS // m**2)
    values, errors = [], []
    for start in range(0, operator.size, step):
        rows = slice(start, start + step)
        basis, image = split.basis[rows].double(), split.image[rows].double()
        signs = probes[rows].double()
        each = split.inside_diagonals(basis, image) + signs * split.outside_images(basis, image)
        without = each[:, None, :] + two.diagonals(basis, image, signs)
        values.append(each.mean(1))
        errors.append(standard_error(each, without))
    return DiagonalEstimate(torch.cat(values), torch.cat(errors), 2 * m)


def _diag_plus_plus(
    operator: LinearOperator, rank: int, m: int, generator: torch.Generator
) -> DiagonalEstimate:
    sketch = images(operator, normal_columns(operator, rank, generator), "Diag++ sketch")
    basis = torch.linalg.qr(sketch)[0]
    image = images(operator, basis, "Diag++ basis")
    h = basis.T @ image
    inside = (basis * (2 * image - basis @ ((h + h.T) / 2))).double().sum(1)
    probes = sign_columns(operator, m, generator)
    outside = torch.addmm(probes, basis, basis.T @ probes, alpha=-1)
    rest = images(operator, outside, "Diag++ rest")
    rest = torch.addmm(rest, basis, basis.T @ rest, alpha=-1)
    mean, error = mean_and_standard_error((probes * rest).double().T)
    return DiagonalEstimate(inside + mean, error, 2 * rank + m)
