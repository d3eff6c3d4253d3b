"""Random blocks: an inverse, and gradients of queries and of training examples, with their dense product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from wherefrom.curvature.kronecker import Basis, BlockInverse
from wherefrom.layers import Block, GradientForm, OuterProducts, TokenOuterProducts


@dataclass(frozen=True)
class Shape:
    groups: int
    outputs: int
    inputs: int
    query_positions: int
    train_positions: int
    queries: int
    train: int
    rotated: bool
    seed: int


def shapes(*, groups: int = 3, positions: int = 4) -> st.SearchStrategy[Shape]:
    small = st.integers(1, 6)
    return st.builds(
        Shape,
        st.integers(1, groups),
        small,
        small,
        st.integers(1, positions),
        st.integers(1, positions),
        small,
        small,
        st.booleans(),
        st.integers(0, 2**31),
    )


@dataclass(frozen=True)
class Case:
    """One block of a contraction."""

    inverse: BlockInverse
    queries: GradientForm
    train: GradientForm

    def dense(self) -> Tensor:
        """`gᵀ M g'`, with `M` as a matrix: `(train, queries)`."""
        return self.train.rows()[0] @ matrix(self.inverse) @ self.queries.rows()[0].T


def matrix(inverse: BlockInverse) -> Tensor:
    g, o, i = inverse.block.shape
    left, right = inverse.basis.left, inverse.basis.right
    left = torch.eye(o).double().repeat(g, 1, 1) if left is None else left
    right = torch.eye(i).double().repeat(g, 1, 1) if right is None else right
    blocks = []
    for group in range(g):
        q = torch.kron(left[group].contiguous(), right[group].contiguous())
        blocks.append(q @ torch.diag(inverse.weights[group].reshape(-1)) @ q.T)
    return torch.block_diag(*blocks)


def outer_case(shape: Shape, *, separable: bool = False) -> Case:
    generator = torch.Generator().manual_seed(shape.seed)
    inverse = make_inverse(shape, generator, separable=separable)
    return Case(
        inverse,
        outer_form(shape, shape.queries, shape.query_positions, generator),
        outer_form(shape, shape.train, shape.train_positions, generator),
    )


def token_case(shape: Shape) -> Case:
    generator = torch.Generator().manual_seed(shape.seed)
    inverse = make_inverse(shape, generator, kind="tokens")
    forms = [
        TokenOuterProducts(
            torch.randint(-1, shape.inputs, (b, t), generator=generator),
            torch.randn(1, b, t, shape.outputs, generator=generator, dtype=torch.float64),
            shape.inputs,
        )
        for b, t in ((shape.queries, shape.query_positions), (shape.train, shape.train_positions))
    ]
    return Case(inverse, *forms)


def outer_form(shape: Shape, b: int, t: int, generator: torch.Generator) -> OuterProducts:
    return OuterProducts(
        torch.randn(b, t, shape.groups, shape.inputs, generator=generator, dtype=torch.float64),
        torch.randn(1, b, t, shape.groups, shape.outputs, generator=generator, dtype=torch.float64),
    )


def make_inverse(
    shape: Shape, generator: torch.Generator, *, separable: bool = False, kind: str = "matrix"
) -> BlockInverse:
    g, o, i = shape.groups, shape.outputs, shape.inputs
    block = Block("layer", "linear", kind, ("layer.weight",), torch.arange(g * o * i).view(g, o, i))
    sides = [_orthogonal(g, width, generator) if shape.rotated else None for width in (o, i)]
    if kind == "tokens":
        sides[1] = None
    left, right = (torch.rand(g, width, generator=generator).double() + 0.01 for width in (o, i))
    basis = Basis(sides[0], sides[1], left, right)
    if separable:
        return BlockInverse(block, basis, left[:, :, None] * right[:, None], None, 0.1, (left, right))
    values = torch.rand(g, o, i, generator=generator).double() ** 4
    return BlockInverse(block, basis, 1 / (values + 0.1), values, 0.1)


def _orthogonal(g: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(g, width, width, generator=generator, dtype=torch.float64))[0]
