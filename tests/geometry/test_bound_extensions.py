"""Convolutions by their unfolded form and residual blocks as one layer, against dense Jacobians."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev

from tests.geometry.geometry_problems import labels, normal
from tests.support import seeded
from wherefrom.studies.geometry import gradient_bounds
from wherefrom.task import Objective

ROUNDING = 1 + 1e-9


def objective(net: nn.Module, x: Tensor, classes: int = 3) -> Objective:
    return Objective(net, (x, labels(len(x), classes)), loss="cross_entropy")


def convolutional(**options) -> nn.Sequential:
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.Softplus(), nn.Conv2d(6, 8, 3, **options), nn.Tanh()
        )
    )


def with_head(body: nn.Sequential, x: Tensor) -> nn.Sequential:
    width = body(x).flatten(1).shape[1]
    return nn.Sequential(*body, nn.Flatten(), seeded(lambda: nn.Linear(width, 3)))


@pytest.mark.parametrize(
    "options",
    [{}, {"padding": 1}, {"bias": False}, {"groups": 2}, {"dilation": 2, "padding": 2, "stride": 2}],
)
def test_the_term_of_a_convolution_is_that_of_its_unfolded_form(options):
    x = normal(5, 2, 8, 8)
    net = with_head(convolutional(**options), x)
    found = gradient_bounds(objective(net, x), iterations=200)
    assert [layer.kind for layer in found.layers] == ["convolution", "convolution", "dense"]
    conv: nn.Conv2d = net[2]
    for i in range(5):
        h = net[:2](x[i : i + 1]).detach()
        unfolded = F.unfold(h, 3, conv.dilation, conv.padding, conv.stride)[0]
        smallest = []
        for part in unfolded.chunk(conv.groups):
            full = part if conv.bias is None else torch.cat([part, torch.ones_like(part[:1])])
            values = torch.linalg.svdvals(full)
            smallest.append(float(values[-1]) ** 2 if full.shape[1] <= full.shape[0] else 0.0)
        linear = jacrev(lambda v: conv(v[None]).flatten())(h[0]).detach().flatten(1)
        jacobian = jacrev(lambda v: net[:2](v[None]).flatten())(x[i]).detach().flatten(1)
        gain = float(torch.linalg.svdvals(linear)[0] * torch.linalg.svdvals(jacobian)[0])
        assert found.layers[1].weight_norm == pytest.approx(float(torch.linalg.svdvals(linear)[0]), rel=1e-6)
        assert float(found.layers[1].term[i]) == pytest.approx(min(smallest) / gain**2, rel=1e-5, abs=1e-12)
    assert bool((found.left <= found.right * ROUNDING).all())
    assert bool((found.layers[1].tightness > 0).all())


def test_convolutional_networks_hold_no_violation():
    for seed in range(5):
        body = seeded(
            lambda: nn.Sequential(
                nn.Conv1d(1, 6, 3, stride=2), nn.GELU(), nn.Conv1d(6, 4, 3), nn.MaxPool1d(2), nn.Tanh()
            ),
            seed,
        )
        x = normal(32, 1, 12, seed=seed)
        found = gradient_bounds(objective(with_head(body, x), x), scalar="loss")
        assert bool((found.left <= found.right * ROUNDING).all())
        assert all(bool((layer.tightness <= ROUNDING).all()) for layer in found.layers)


def test_with_more_positions_than_rows_no_bound_holds_and_the_term_is_zero():
    # Inputs that are the same everywhere: ∂f/∂z = (1, −1) moves x and no parameter.
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten()).double()
    x = torch.ones(4, 1, 3, dtype=torch.float64)

    def difference(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0] - outputs[:, 1]

    found = gradient_bounds(objective(net, x), scalar=difference)
    assert bool((found.input_norm > 0).all())
    assert bool((found.parameter_norm < 1e-12).all())
    assert found.layers[0].term.tolist() == [0] * 4


class Residual(nn.Module):
    """`h + V σ(U h)` between two dense layers."""

    def __init__(self, flipped: bool = False):
        super().__init__()
        self.stem, self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 6)
        self.head, self.flipped = nn.Linear(6, 3), flipped

    def block(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.stem(x))
        made = self.outer(torch.relu(self.inner(h)))
        return made + h if self.flipped else h + made

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


@pytest.mark.parametrize("flipped", [False, True])
def test_the_layer_that_ends_a_residual_block_has_the_term_of_the_whole_block(flipped):
    net = seeded(lambda: Residual(flipped))
    x = normal(6, 5)
    found = gradient_bounds(objective(net, x), layers="cut")
    assert [(layer.name, layer.kind) for layer in found.layers] == [
        ("stem", "dense"),
        ("outer", "residual"),
        ("head", "dense"),
    ]
    assert list(found.left_out) == ["inner"]
    for i in range(6):
        spread = torch.linalg.svdvals(jacrev(net.block)(x[i]).detach())[0]
        a = torch.relu(net.inner(torch.tanh(net.stem(x[i])))).detach()
        expected = float((1 + a.square().sum()) / spread.square())
        assert float(found.layers[1].term[i]) == pytest.approx(expected, rel=1e-8)
    assert bool((found.left <= found.right * ROUNDING).all())


def test_residual_networks_hold_no_violation():
    for seed in range(4):
        net = seeded(Residual, seed)
        for scalar in ("margin", "loss", 0):
            found = gradient_bounds(objective(net, 3 * normal(32, 5, seed=seed)), layers="cut", scalar=scalar)
            assert bool((found.left <= found.right * ROUNDING).all())
            assert all(bool((layer.tightness <= ROUNDING).all()) for layer in found.layers)


@pytest.mark.parametrize("kind", ["scaled", "both", "wider"])
def test_sums_that_end_no_residual_block_are_not_taken_for_one(kind):
    class Sum(Residual):
        def block(self, x: Tensor) -> Tensor:
            h = torch.tanh(self.stem(x))
            made = self.outer(torch.relu(self.inner(h)))
            if kind == "scaled":
                return torch.add(h, made, alpha=2)
            if kind == "both":  # the layer's output enters the other term as well
                return (h + made.sin()) + made
            return (h[:, None] + made[:, None].expand(-1, 2, -1)).sum(1)

    found = gradient_bounds(objective(seeded(Sum), normal(6, 5)), layers="cut")
    assert "outer" in found.left_out
    assert bool((found.left <= found.right * ROUNDING).all())


def test_a_dense_layer_at_several_positions_is_a_convolution_of_width_one():
    net = seeded(lambda: nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 3)))
    x = normal(8, 3, 7)
    found = gradient_bounds(objective(net, x))
    full = torch.cat([x, torch.ones(8, 3, 1, dtype=torch.float64)], dim=2)
    smallest = torch.linalg.svdvals(full)[:, -1].square()
    torch.testing.assert_close(
        found.layers[0].term * found.layers[0].weight_norm ** 2, smallest, rtol=1e-9, atol=0
    )
    assert bool((found.left <= found.right * ROUNDING).all())
