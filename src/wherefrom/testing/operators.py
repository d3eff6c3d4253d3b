"""What every `LinearOperator` promises, as one call that a test of a new operator can make."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wherefrom.linalg import FactoredOperator, LinearOperator

_Same = Callable[..., None]


def check_operator(operator: LinearOperator, *, seed: int = 0, rtol: float | None = None) -> Tensor:
    """Check the contract of a (small) operator against its own dense form, and return that form in float64.

    Symmetry; `matmat` and `matvec` equal to products with the dense matrix, whatever the number of columns;
    linearity; no eigenvalue below `lower_bound`; `sampled` averages to the operator over all examples, and a
    sample of several is the mean of the samples of one; for a `FactoredOperator`, `F`, `Fᵀ` and the Gram
    matrix agree with `C = F Fᵀ / n`.

    Args:
        operator: up to a few hundred parameters and examples.
        seed: of the random vectors.
        rtol: allowed relative difference; by default what the operator's dtype allows.

    Raises:
        AssertionError: a promise that is not kept.
    """
    p, dtype, device = operator.size, operator.dtype, operator.device
    rtol = 1e3 * torch.finfo(dtype).eps if rtol is None else rtol
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(p, 3, generator=generator, dtype=torch.float64).to(device, dtype)
    dense = operator.to_dense()
    scale = float(dense.abs().max())

    def same(found: Tensor, expected: Tensor, what: str, size: float | int = 1) -> None:
        assert found.shape == expected.shape, (
            f"{what}: shape {tuple(found.shape)}, not {tuple(expected.shape)}"
        )
        worst = float((found.double() - expected.double()).abs().max()) if found.numel() else 0.0
        assert worst <= rtol * (size * scale + 1e-300), (
            f"{what}: off by {worst:.3g}, entries up to {scale:.3g}"
        )

    assert operator.shape == (p, p)
    assert dense.shape == (p, p)
    assert dense.dtype == torch.float64, f"to_dense: {dense.dtype}, not float64 whatever the operator's dtype"
    same(dense, dense.T, "to_dense is not symmetric")
    many = vectors.repeat(1, 30)
    image = operator.matmat(vectors)
    assert image.dtype == dtype
    reach = p * float(vectors.abs().max())
    same(image, dense @ vectors.double(), "matmat against to_dense", reach)
    same(operator.matmat(many), image.repeat(1, 30), "matmat with many columns", reach)
    same(operator.matvec(vectors[:, 0]), image[:, 0], "matvec", reach)
    mixed = operator.matmat(2 * vectors[:, :1] - 3 * vectors[:, 1:2])
    same(mixed, 2 * image[:, :1] - 3 * image[:, 1:2], "linearity", 5 * reach)
    smallest = float(torch.linalg.eigvalsh(dense)[0])
    assert smallest >= operator.lower_bound - rtol * p * scale, (
        f"an eigenvalue {smallest:.6g} lies below lower_bound {operator.lower_bound:.6g}"
    )
    if operator.n_examples is not None:
        _check_samples(operator, vectors, image, same, reach)
    if isinstance(operator, FactoredOperator) and operator.lower_bound >= 0 and operator.fixed_rank:
        _check_factor(operator, vectors, image, same, reach)
    return dense


def _check_samples(
    operator: LinearOperator, vectors: Tensor, image: Tensor, same: _Same, reach: float
) -> None:
    assert operator.n_examples is not None
    device, n = operator.device, operator.n_examples
    single = [operator.sampled(torch.tensor([i], device=device)).matmat(vectors) for i in range(n)]
    same(torch.stack(single).mean(0), image, "the mean of all sampled operators", n * reach)
    few = torch.tensor([0, n // 2, n - 1], device=device)
    expected = (single[0] + single[n // 2] + single[n - 1]) / 3
    same(operator.sampled(few).matmat(vectors), expected, "a sample of several examples", n * reach)


def _check_factor(
    operator: FactoredOperator, vectors: Tensor, image: Tensor, same: _Same, reach: float
) -> None:
    assert operator.n_examples is not None
    adjoint = operator.factor_adjoint(vectors)
    assert adjoint.shape == (operator.rank, vectors.shape[1])
    same(operator.factor_apply(adjoint) / operator.n_examples, image, "F Fᵀ V / n", reach)
    identity = torch.eye(operator.rank, dtype=operator.dtype, device=operator.device)
    factor = operator.factor_apply(identity).double()
    same(
        adjoint,
        factor.T @ vectors.double(),
        "factor_adjoint against factor_apply",
        operator.n_examples * reach,
    )
    weights = torch.linspace(0.5, 2.0, operator.size, dtype=torch.float64, device=operator.device)
    gram = operator.factor_gram(weights.to(operator.dtype))
    assert gram.dtype == torch.float64
    same(gram, factor.T @ (weights[:, None] * factor), "factor_gram", operator.n_examples * operator.size)
