"""A random estimate with its standard error, and what the estimators of this package share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import NonFiniteError
from wherefrom.linalg.operators import LinearOperator
from wherefrom.progress import progress_bar

# Columns in one product: by here what columns share (the forward pass, above all) is spread thin enough, and
# more only take memory.
COLUMNS = 8


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random vectors.

    Attributes:
        value: the estimate, in the units of what is estimated.
        standard_error: of `value` over the random vectors; 0 where it was computed exactly, `nan` where one
            draw says nothing of the spread.
        products: matrix-vector products spent.
    """

    value: float
    standard_error: float
    products: int


def products_in_parts(
    operator: LinearOperator, vectors: Float[Tensor, "p k"], label: str
) -> Iterator[tuple[slice, Float[Tensor, "p c"]]]:
    """`C V` for a few columns at a time: `(which columns, their images)`."""
    starts = range(0, vectors.shape[1], COLUMNS)
    with progress_bar(label, len(starts), enabled=len(starts) > 1) as bar:
        for start in starts:
            part = slice(start, min(start + COLUMNS, vectors.shape[1]))
            yield part, check_finite(operator.matmat(vectors[:, part]))
            bar.advance()


def images(operator: LinearOperator, vectors: Float[Tensor, "p k"], label: str) -> Float[Tensor, "p k"]:
    """`C V`, a few columns at a time."""
    return torch.cat([image for _, image in products_in_parts(operator, vectors, label)], dim=1)


def normal_columns(operator: LinearOperator, count: int, generator: torch.Generator) -> Float[Tensor, "p k"]:
    """Standard normal columns, drawn on the CPU so that they are the same whatever the device."""
    drawn = torch.randn(count, operator.size, generator=generator, dtype=torch.float64)
    return drawn.to(dtype=operator.dtype, device=operator.device).T


def sign_columns(operator: LinearOperator, count: int, generator: torch.Generator) -> Float[Tensor, "p k"]:
    """Columns of independent random signs, drawn on the CPU."""
    drawn = torch.randint(2, (count, operator.size), generator=generator, dtype=torch.int8)
    return (2 * drawn - 1).to(dtype=operator.dtype, device=operator.device).T


def mean_and_standard_error(
    samples: Float[Tensor, " m *rest"],
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """Over the first axis; the standard error of a single sample is `nan`."""
    mean = samples.mean(0)
    if len(samples) == 1:
        return mean, torch.full_like(mean, math.nan)
    return mean, samples.std(0) / math.sqrt(len(samples))


def dense_matrix(operator: LinearOperator) -> Float[Tensor, "p p"]:
    """A small operator as a float64 matrix: `p` products."""
    return check_finite(operator.to_dense())


def check_finite(products: Tensor) -> Tensor:
    """The products, refused where they hold NaN or infinity."""
    if not bool(products.isfinite().all()):
        raise NonFiniteError(
            "a product with the operator has entries that are NaN or infinite; expected finite ones: "
            "look at the parameters, the data and the loss behind it"
        )
    return products
