"""LoGra against its own dense matrix, from whole gradients and from their factors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.gradients.projections import BoundLoGra, LayerProjection, LoGra, MatrixBlock, matrix_blocks
from wherefrom.task import ParameterSet


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters() -> ParameterSet:
    return ParameterSet(
        nn.Sequential(
            nn.Conv2d(2, 4, 2),
            nn.LayerNorm(4),
            nn.Linear(4, 6),
            nn.Linear(6, 5, bias=False),
            nn.Embedding(7, 5),
        ).double()
    )


def dense(projection: BoundLoGra) -> Tensor:
    return projection.adjoint(torch.eye(projection.k, dtype=torch.float64))


def test_the_blocks_hold_every_parameter_once():
    blocks = matrix_blocks(parameters())
    shapes = {block.name: tuple(block.index.shape) for block in blocks}
    assert shapes == {
        "0.weight": (1, 4, 9),
        "1.weight": (1, 4, 1),
        "1.bias": (1, 4, 1),
        "2.weight": (1, 6, 5),
        "3.weight": (1, 5, 6),
        "4.weight": (1, 7, 5),
    }
    places = torch.cat([block.index.reshape(-1) for block in blocks])
    assert torch.equal(places.sort().values, torch.arange(parameters().size))


class Odd(nn.Module):
    """A bias that is one number for all outputs, and a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(()))


def test_a_bias_of_another_shape_is_no_column():
    blocks = matrix_blocks(ParameterSet(Odd()))
    assert [tuple(block.index.shape) for block in blocks] == [(1, 2, 3), (1, 1, 1)]


def test_each_layer_becomes_two_sided():
    """Against `P_o [W | b] P_iᵀ` written out with the parameters' own shapes."""
    layout = parameters()
    projection = LoGra(3, 2, seed=4, clip=True).bind(layout)
    x = normal(3, layout.size)
    parts = dict(zip(layout.names, layout.unflatten_rows(x)))
    made = dict(
        zip(
            (layer.block.name for layer in projection.layers),
            projection.apply(x).split([layer.k for layer in projection.layers], dim=1),
        )
    )
    for layer in projection.layers:
        weight = parts[layer.block.name]
        weight = weight.reshape(*weight.shape[:2], -1)
        bias = parts.get(layer.block.name.replace("weight", "bias"))
        if weight.shape[2] > 1 and bias is not None:
            weight = torch.cat([weight, bias[:, :, None]], dim=2)
        expected = torch.einsum("ro,boi,si->brs", layer.left, weight, layer.right)
        torch.testing.assert_close(made[layer.block.name], expected.flatten(1))


def test_it_is_linear_and_its_adjoint_is_the_adjoint():
    layout = parameters()
    projection = LoGra(3, 2, seed=1, clip=True).bind(layout)
    x, y = normal(4, layout.size), normal(3, projection.k, seed=1)
    torch.testing.assert_close(projection.apply(x) @ y.T, x @ projection.adjoint(y).T)
    torch.testing.assert_close(projection.apply(x), x @ dense(projection).T)
    parts = torch.cat([projection.apply(row[None]) for row in x])
    torch.testing.assert_close(parts, projection.apply(x), rtol=1e-13, atol=1e-13)


def test_inner_products_are_kept_in_the_mean_over_seeds():
    layout = ParameterSet(nn.Linear(3, 3).double())
    grams = torch.stack([(m.T @ m) for m in (dense(LoGra(2, 2, seed).bind(layout)) for seed in range(600))])
    error = (grams.mean(0) - torch.eye(layout.size)).abs() / (grams.std(0) / math.sqrt(600)).clamp(min=1e-12)
    assert float(error.max()) < 6


def test_full_ranks_are_an_orthogonal_map():
    layout = ParameterSet(nn.Linear(4, 5).double())
    projection = LoGra(5, 5).bind(layout)
    assert projection.k == layout.size
    matrix = dense(projection)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(25, dtype=torch.float64))
    assert not projection.resampled(3, 0).any()


@given(
    b=st.integers(1, 3),
    t=st.integers(1, 4),
    g=st.integers(1, 2),
    o=st.integers(1, 5),
    i=st.integers(1, 5),
    k=st.integers(1, 2),
)
@settings(max_examples=40, deadline=None)
def test_factors_are_projected_without_forming_the_gradient(b, t, g, o, i, k):
    block = MatrixBlock("layer", torch.arange(g * o * i).view(g, o, i))
    (layer,) = LoGra(2, 3, seed=o, clip=True).bind([block]).layers
    a, delta = normal(b, t, g, i), normal(k, b, t, g, o, seed=1)
    gradient = torch.einsum("kbtgo,btgi->kbgoi", delta, a)
    expected = torch.stack([layer.project(one) for one in gradient])
    torch.testing.assert_close(layer.project_factored(a, delta), expected)


def test_one_hot_activations_are_picked_by_index():
    (layer,) = LoGra(3, 2).bind([MatrixBlock("embedding", torch.arange(28).view(1, 4, 7))]).layers
    tokens, delta = torch.tensor([[0, 6, 6], [2, 2, 2]]), normal(2, 2, 3, 4)
    one_hot = nn.functional.one_hot(tokens, 7).double()[:, :, None]
    expected = layer.project_factored(one_hot, delta[:, :, :, None])
    torch.testing.assert_close(layer.project_tokens(tokens, delta), expected)


def test_the_same_seed_gives_the_same_map_and_layers_differ():
    layout = ParameterSet(nn.Sequential(nn.Linear(5, 6), nn.Linear(5, 6)).double())
    first, again, other = (LoGra(2, 2, seed).bind(layout) for seed in (3, 3, 4))
    assert torch.equal(dense(first), dense(again))
    assert not torch.equal(dense(first), dense(other))
    assert not torch.equal(first.layers[0].left, first.layers[1].left)
    assert not torch.equal(first.layers[0].left[:, :5], first.layers[0].right[:, :5])


def test_redrawn_weights_belong_to_rows_of_the_two_sides():
    """Weights `(1 + a)(1 + b)` of variances `1 − rank/size`, shared by what shares a row."""
    blocks = [MatrixBlock("layer", torch.arange(80).view(2, 5, 8))]
    weights = LoGra(2, 4).bind(blocks).resampled(4000, 0).view(-1, 2, 4, 2)
    assert torch.equal(weights[:, 0], weights[:, 1])
    one, other = 1 - 4 / 5, 1 - 2 / 8
    expected = one + other + one * other
    assert float(weights.square().mean()) == pytest.approx(expected, rel=0.05)
    whole = 1 + weights[:, 0]
    torch.testing.assert_close(whole[:, 0, 0] * whole[:, 1, 1], whole[:, 1, 0] * whole[:, 0, 1])


@pytest.mark.parametrize(
    ("ranks", "message"),
    [((6, 2), r"rank_in=6.*'2.weight' is 6 × 5.*clip=True"), ((2, 7), r"rank_out=7.*'2.weight' is 6 × 5")],
)
def test_ranks_above_a_layers_size_are_refused_or_clipped(ranks, message):
    layout = ParameterSet(nn.ModuleDict({"2": nn.Linear(4, 6)}).double())
    with pytest.raises(InputError, match=message):
        LoGra(*ranks).bind(layout)
    clipped = LoGra(*ranks, clip=True).bind(layout)
    assert clipped.k == min(ranks[0], 5) * min(ranks[1], 6)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match="rank_in=0"):
        LoGra(0, 3)
    with as_a_user(), pytest.raises(InputError, match=r"rank_out=1\.5"):
        LoGra(3, 1.5)
    with pytest.raises(InputError, match=r"parameters=30.*layers' shapes"):
        LoGra(3, 3).bind(30)
    layer = LayerProjection(MatrixBlock("fc", torch.arange(6).view(1, 2, 3)), normal(1, 2), normal(1, 3))
    with pytest.raises(InputError, match=r"1 matrices of 2 × 4; 'fc' has 1 of 2 × 3"):
        layer.project_factored(normal(5, 1, 1, 4), normal(1, 5, 1, 1, 2))
