"""`to_dense` of every operator of the package: float64 whatever the operator's dtype, and the matrix of its
products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import wherefrom
from tests.problems import labels, normal
from wherefrom.curvature import BlockwiseHeadOperator, HeadHessianOperator
from wherefrom.curvature.of_examples import CurvatureOfExamples, WeightedExamples
from wherefrom.interventions.edited_objective import EditedObjective
from wherefrom.interventions.edits import remove
from wherefrom.linalg import DenseOperator, DiagonalOperator, LinearOperator, RestrictedOperator
from wherefrom.solvers import InverseOperator
from wherefrom.solvers.exact import _Inverse
from wherefrom.solvers.low_rank import SplitOperator
from wherefrom.task import Data

N, LAMBDA = 12, 0.5


def fit(dtype: torch.dtype, **arguments: object) -> wherefrom.Influence:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    arguments = {"loss": "cross_entropy", "damping": LAMBDA, "progress": False, **arguments}
    return wherefrom.Influence(model, (normal(N, 3).to(dtype), labels(N) % 2), **arguments).fit()


def small(dtype: torch.dtype) -> DenseOperator:
    matrix = normal(5, 5).to(dtype)
    return DenseOperator(matrix @ matrix.T)


def curvature(dtype: torch.dtype, name: str = "ggn") -> LinearOperator:
    return fit(dtype, curvature=name, damping=5.0).curvature.data


def of_examples(dtype: torch.dtype) -> LinearOperator:
    part = WeightedExamples(fit(dtype).objective.examples, torch.tensor([0, 4, 5]), 0.25)
    return CurvatureOfExamples(curvature(dtype), [part])


def regularised(dtype: torch.dtype) -> LinearOperator:
    made = fit(dtype, regulariser=lambda values: sum(value.pow(4).sum() for value in values.values()))
    return made.objective.regulariser.hessian()


def kronecker(dtype: torch.dtype) -> LinearOperator:
    return fit(dtype, solver="ekfac").prepared.curvature.operator()


def edited(dtype: torch.dtype) -> LinearOperator:
    made = fit(dtype)
    return EditedObjective(made, Data(made.train), remove([1, 2], N), "sum").curvature()


TABLE: dict[str, Callable[[torch.dtype], LinearOperator]] = {
    "DenseOperator": small,
    "DiagonalOperator": lambda dtype: DiagonalOperator(normal(5).to(dtype)),
    "SumOperator": lambda dtype: small(dtype) + DiagonalOperator(normal(5).to(dtype)) + small(dtype),
    "ScaledOperator": lambda dtype: 0.3 * small(dtype),
    "RestrictedOperator": lambda dtype: RestrictedOperator(small(dtype), [3, 1]),
    "GaussNewtonOperator": curvature,
    "_MinibatchGaussNewton": lambda dtype: curvature(dtype).sampled(torch.tensor([0, 3, 3])),
    "HessianOperator": lambda dtype: curvature(dtype, "hessian"),
    "_MinibatchHessian": lambda dtype: curvature(dtype, "hessian").sampled(torch.tensor([0, 3])),
    "CurvatureOfExamples": of_examples,
    "HeadHessianOperator": lambda dtype: HeadHessianOperator(
        normal(6, 3).to(dtype), normal(6, 2).to(dtype), True
    ),
    "BlockwiseHeadOperator": lambda dtype: BlockwiseHeadOperator(
        normal(6, 3).to(dtype), torch.eye(2, dtype=dtype).expand(6, 2, 2), True
    ),
    "BlockSpectralOperator": kronecker,
    "InverseOperator": lambda dtype: InverseOperator(lambda vectors: vectors / 3, small(dtype)),
    "_Inverse": lambda dtype: _Inverse(
        torch.linalg.cholesky(small(dtype).matrix + torch.eye(5, dtype=dtype))
    ),
    "SplitOperator": lambda dtype: SplitOperator(small(dtype).damped(0.5)),
    "_GraphHessian": regularised,
    "_EditedCurvature": edited,
}


def classes(kind: type = LinearOperator) -> set[type]:
    below = {one for child in kind.__subclasses__() for one in {child, *classes(child)}}
    return {one for one in below if one.__module__.startswith(wherefrom.__name__ + ".")}


def test_every_operator_is_in_the_table():
    abstract = {one for one in classes() if getattr(one, "__abstractmethods__", None)}
    assert {one.__name__ for one in classes() - abstract} == set(TABLE)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", TABLE)
def test_the_dense_form_is_in_float64_and_that_of_the_products(name, dtype):
    operator = TABLE[name](dtype)
    assert type(operator).__name__ == name
    assert operator.dtype == dtype
    dense = operator.to_dense()
    assert dense.dtype == torch.float64
    products = operator.matmat(torch.eye(operator.size, dtype=dtype)).double()
    tolerance = 1e3 * torch.finfo(dtype).eps * float(products.abs().max())
    torch.testing.assert_close(dense, products, rtol=0, atol=tolerance)
    torch.testing.assert_close(dense, dense.T, rtol=0, atol=tolerance)


def test_a_compact_form_keeps_the_dtype_of_its_products():
    total = (small(torch.float32) + DiagonalOperator(torch.ones(5))).compact()
    assert total.matmat(torch.ones(5, 1)).dtype == torch.float32
