"""The run-time checks of shapes are there, and a call that was right does not excuse one that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from tests.shape_checks import checked
from tests.support import as_a_user
from wherefrom.linalg import extreme_eigenpairs


@checked(typechecker=None)
def product(
    a: Float[Tensor, "n m"], b: Float[Tensor, "m k"], *more: Float[Tensor, " k"]
) -> Float[Tensor, "n k"]:
    out = a @ b
    return out if len(more) < 2 else out[:1]


@checked
@dataclass
class Held:
    values: list[Float[Tensor, " n"]]
    name: str = "held"


def test_a_function_of_the_package_is_checked():
    assert extreme_eigenpairs.__code__ is product.__code__
    with pytest.raises(TypeCheckError, match="'operator'"):
        extreme_eigenpairs(3, 1)


@pytest.mark.parametrize("rounds", [1, 2])
def test_shapes_dtypes_and_types(rounds):
    a, b, c = torch.ones(2, 3), torch.ones(3, 4), torch.ones(4)
    for _ in range(rounds):
        assert product(a, b, c).shape == (2, 4)
        for wrong in [
            lambda: product(a, b.T),
            lambda: product(a, b=b.T),
            lambda: product(a, b.long()),
            lambda: product(a, None),
            lambda: product(a, b, a[0]),
            lambda: product(a, b, c, a[0]),
            lambda: Held([a]),
            lambda: Held([], name=3),
        ]:
            with pytest.raises(TypeCheckError):
                wrong()


def test_the_answer_is_compared_with_the_arguments():
    a, b, c = torch.ones(2, 3), torch.ones(3, 4), torch.ones(4)
    product(a, b, c)
    with pytest.raises(TypeCheckError, match="the answer"):
        product(a, b, c, c)
    with as_a_user():
        product(a, b, c, c)
