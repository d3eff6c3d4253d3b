"""The trace of an operator seen by products only."""

from __future__ import annotations

from typing import Literal

import torch

from wherefrom.arguments import choice, whole
from wherefrom.linalg.estimates import (
    Estimate,
    dense_matrix,
    images,
    mean_and_standard_error,
    normal_columns,
    products_in_parts,
    sign_columns,
)
from wherefrom.linalg.leave_one_out import LeaveOneOutProbes, LeaveTwoOut, standard_error
from wherefrom.linalg.operators import LinearOperator

TRACE_METHODS = ("xtrace", "hutch++", "hutchinson")


def estimate_trace(
    operator: LinearOperator,
    *,
    products: int = 120,
    method: Literal["xtrace", "hutch++", "hutchinson"] = "xtrace",
    seed: int = 0,
) -> Estimate:
    """`tr C` from random vectors, with its standard error; exact where `p ≤ products`.

    Args:
        operator: symmetric, any definiteness.
        products: to spend at most.
        method: `"hutchinson"`: the mean of `ωᵀ C ω` over random signs; its relative error falls like
            `1/√products` whatever the spectrum. `"hutch++"`: the trace on the span of `C Ω` exactly and
            Hutchinson for the rest; like `1/products` for a positive semi-definite operator. `"xtrace"`: the
            same, but every vector serves both purposes: for each, the others span the part that is exact. The
            best where the spectrum decays fast.
        seed: of the random vectors.

    Raises:
        InputError: an unknown method, or fewer products than it needs: 2 for `"hutchinson"`, 4 for
            `"xtrace"`, 6 for `"hutch++"`.
        NonFiniteError: a product with NaN or infinity.

    Memory: `products` vectors of size `p` for `"xtrace"`, two thirds of that for `"hutch++"`.

    Source: Hutchinson 1989; Meyer, Musco, Musco & Woodruff 2021, *Hutch++: optimal stochastic trace
    estimation*, SOSA; Epperly, Tropp & Webber 2024, *XTrace: making the most of every sample in stochastic
    trace estimation*, SIAM J. Matrix Anal. Appl. 45 (§2.2, normalised as in §2.3).
    """
    choice("method", method, TRACE_METHODS)
    least = {"xtrace": 4, "hutch++": 6, "hutchinson": 2}[method]
    whole("products", products, least, expected=f"a whole number of at least {least} for method={method!r}")
    if operator.size <= products:
        return Estimate(float(dense_matrix(operator).trace()), 0.0, operator.size)
    generator = torch.Generator().manual_seed(seed)
    if method == "xtrace":
        return _xtrace(operator, products // 2, generator)
    if method == "hutch++":
        return _hutch_plus_plus(operator, products // 3, products - 2 * (products // 3), generator)
    probes = sign_columns(operator, products, generator)
    samples = [
        (image * probes[:, part]).double().sum(0)
        for part, image in products_in_parts(operator, probes, "Hutchinson's trace")
    ]
    mean, error = mean_and_standard_error(torch.cat(samples))
    return Estimate(float(mean), float(error), products)


def _xtrace(operator: LinearOperator, m: int, generator: torch.Generator) -> Estimate:
    probes = normal_columns(operator, m, generator)
    split = LeaveOneOutProbes(operator, probes)
    # The part of a normal vector outside the span of the others' images has a uniform direction there: its
    # length carries no information and is taken out.
    outside = operator.size - m + 1
    each = split.inside_traces() + outside * split.outside_energies() / split.outside_squares()
    two = LeaveTwoOut(split)
    without = two.inside_traces() + (outside + 1) * two.outside_energies() / two.outside_squares()
    return Estimate(float(each.mean()), float(standard_error(each, without)), 2 * m)


def _hutch_plus_plus(operator: LinearOperator, rank: int, m: int, generator: torch.Generator) -> Estimate:
    sketch = images(operator, normal_columns(operator, rank, generator), "Hutch++ sketch")
    basis = torch.linalg.qr(sketch)[0]
    inside = (basis * images(operator, basis, "Hutch++ basis")).double().sum()
    probes = sign_columns(operator, m, generator)
    probes = torch.addmm(probes, basis, basis.T @ probes, alpha=-1)
    samples = (probes * images(operator, probes, "Hutch++ rest")).double().sum(0)
    mean, error = mean_and_standard_error(samples)
    return Estimate(float(inside + mean), float(error), 2 * rank + m)
