"""The bound of input by parameter gradients, against dense Jacobians and their singular values."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.geometry.geometry_problems import ACTIVATIONS, dense_sides, labels, normal, random_mlp
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses import SquaredError
from wherefrom.studies.geometry import gradient_bounds
from wherefrom.task import Objective

ROUNDING = 1 + 1e-9
SHAPES = [[5, 4, 3], [3, 8, 8, 2], [12, 2, 7, 4], [6, 6, 6, 6, 3]]


def objective(net: nn.Module, x: Tensor, y: Tensor, **options) -> Objective:
    return Objective(net, (x, y), loss="cross_entropy", **options)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", SHAPES)
def test_both_sides_and_every_term_are_those_of_dense_jacobians(activation, bias, widths):
    net = random_mlp(widths, activation, seed=3, gain=1.3, bias=bias)
    x, y = normal(4, widths[0], seed=5), labels(4, widths[-1])
    found = gradient_bounds(objective(net, x, y))
    for i in range(4):
        dense = dense_sides(net, x[i], y[i])
        assert float(found.input_norm[i]) == pytest.approx(dense.input_norm, rel=1e-9)
        assert float(found.parameter_norm[i]) == pytest.approx(dense.parameter_norm, rel=1e-9)
        assert float(found.left[i]) == pytest.approx(dense.left, rel=1e-7)
        for layer, oracle in zip(found.layers, dense.layers, strict=True):
            assert layer.kind == "dense"
            assert layer.weight_norm == pytest.approx(oracle.weight_norm, rel=1e-9)
            assert float(layer.activation_norm[i]) == pytest.approx(oracle.activation_norm, rel=1e-9)
            assert float(layer.jacobian_norm[i]) == pytest.approx(oracle.jacobian_norm, rel=1e-8, abs=1e-12)
            assert float(layer.term[i]) == pytest.approx(oracle.term, rel=1e-7)
            assert float(layer.gradient_norm[i]) ** 2 == pytest.approx(oracle.gradient_square, rel=1e-9)
    # Every matrix is narrower than the number of steps, so that the iteration is exhaustive.
    assert all(layer.error == 0 for layer in found.layers)
    torch.testing.assert_close(found.certified, found.left)


def test_thousands_of_random_draws_hold_no_violation():
    draws = 0
    for number, (widths, activation) in enumerate(itertools.product(SHAPES, ACTIVATIONS)):
        gain, scalar = (0.3, 1.0, 3.0)[number % 3], ("margin", "loss", 1)[number // 3 % 3]
        net = random_mlp(widths, activation, seed=number, gain=gain, bias=number % 5 > 0)
        scale = 10.0 ** (number // 4 - 2)
        x, y = scale * normal(256, widths[0], seed=number), labels(256, widths[-1], seed=number)
        found = gradient_bounds(objective(net, x, y), scalar=scalar)
        assert bool((found.left <= found.right * ROUNDING + 1e-300).all())
        for layer in found.layers:
            used = layer.term * layer.input_norm.square()
            assert bool((used <= layer.gradient_norm.square() * ROUNDING + 1e-300).all())
        draws += len(x)
    assert draws == 4096


def test_the_bound_is_tight_for_a_single_output_on_its_first_layer():
    net = nn.Sequential(nn.Linear(4, 1)).double()  # ∇_x f = w and ∇_θ f = (x, 1): equality
    x, y = normal(5, 4), labels(5, 2)
    found = gradient_bounds(Objective(net, (x, y), loss="binary_cross_entropy"), scalar=0)
    torch.testing.assert_close(found.ratio, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(found.layers[0].tightness, torch.ones(5, dtype=torch.float64))


def test_it_is_false_for_gradients_averaged_over_a_batch():
    # ℓ = ½(wx − y)² with w = 1: the residuals 2 and −1 at x = 1 and 2 make ∇_w vanish on average.
    net = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        net.weight.fill_(1.0)
    x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([[-1.0], [3.0]]).double()
    found = gradient_bounds(Objective(net, (x, y), loss=SquaredError()), scalar="loss")
    residuals = (x - y)[:, 0]
    mean_parameter_gradient = float((residuals * x[:, 0]).mean())
    mean_input_gradient = float(residuals.mean())
    term = float(x.square().mean())  # any positive weight will do
    assert mean_parameter_gradient == 0
    assert mean_input_gradient**2 * term > mean_parameter_gradient**2
    assert float(found.input_norm.square().mean()) > 0
    assert bool((found.left <= found.right * ROUNDING).all())  # and each example by itself obeys


def test_few_steps_underestimate_norms_within_the_stated_error():
    net = random_mlp([60, 50, 50, 3], "tanh", seed=0)
    x, y = normal(6, 60), labels(6, 3)
    rough = gradient_bounds(objective(net, x, y), iterations=25)
    exact = gradient_bounds(objective(net, x, y), iterations=60)
    for few, many in zip(rough.layers[1:], exact.layers[1:]):
        assert 0 < few.error < 1
        assert many.error == 0
        assert bool((few.jacobian_norm <= many.jacobian_norm * ROUNDING).all())
        assert bool((few.jacobian_norm.square() >= many.jacobian_norm.square() * (1 - few.error)).all())
    assert bool((rough.certified <= exact.left * ROUNDING).all())
    assert bool((rough.left >= exact.left / ROUNDING).all())
    oracle = [dense_sides(net, x[i], y[i]).left for i in range(6)]
    torch.testing.assert_close(exact.left, torch.tensor(oracle, dtype=torch.float64), rtol=1e-6, atol=0)


def test_batches_do_not_matter_and_starts_hardly(monkeypatch):
    net = random_mlp([6, 9, 4], "gelu", seed=2)
    x, y = normal(10, 6), labels(10, 4)
    together = gradient_bounds(objective(net, x, y))
    monkeypatch.setattr("wherefrom.studies.geometry.bounds._MOST_EXAMPLES", 3)
    apart = gradient_bounds(objective(net, x, y), seed=7)
    torch.testing.assert_close(together.left, apart.left, rtol=1e-8, atol=0)
    torch.testing.assert_close(together.right, apart.right)


def test_frozen_parameters_have_no_part_in_either_side():
    net = random_mlp([5, 6, 3], "tanh", seed=1)
    net[0].bias.requires_grad_(False)
    net[2].weight.requires_grad_(False)
    x, y = normal(8, 5), labels(8, 3)
    found = gradient_bounds(objective(net, x, y))
    first, last = found.layers
    torch.testing.assert_close(
        first.term * first.weight_norm**2, x.square().sum(1), rtol=1e-9, atol=0
    )  # no 1 of the bias
    gain = (last.weight_norm * last.jacobian_norm).square()
    torch.testing.assert_close(last.term * gain, torch.ones_like(gain))  # nothing but the 1
    assert bool((found.left <= found.right * ROUNDING).all())


def test_a_dead_layer_says_nothing_and_breaks_nothing():
    net = random_mlp([4, 5, 2], "relu", seed=0)
    with torch.no_grad():
        net[0].bias.fill_(-1e3)
    found = gradient_bounds(objective(net, normal(3, 4), labels(3, 2)))
    assert found.left.tolist() == [0, 0, 0]
    assert found.layers[1].term.tolist() == [0, 0, 0]
    assert bool((found.right > 0).all())


@pytest.mark.parametrize("layer", [nn.LayerNorm, nn.BatchNorm1d])
def test_what_lies_between_layers_may_have_parameters_of_its_own(layer):
    net = nn.Sequential(nn.Linear(5, 6), layer(6), nn.ReLU(inplace=True), nn.Linear(6, 3)).double().eval()
    found = gradient_bounds(objective(net, normal(20, 5), labels(20, 3)))
    assert [one.name for one in found.layers] == ["0", "3"]
    assert bool((found.left <= found.right * ROUNDING).all())
    counted = sum(one.gradient_norm.square() for one in found.layers)
    assert bool((found.right >= counted).all()) and bool((found.right > counted).any())


class TwoPaths(nn.Module):
    def __init__(self, skip: bool):
        super().__init__()
        self.first, self.last, self.skip = nn.Linear(4, 4), nn.Linear(4, 3), skip

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(self.first(x))
        return self.last(torch.cat([made[:, :2], x[:, :2]], 1) if self.skip else made)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.tanh(self.first(x))))


class Twice(nn.Module):
    def __init__(self, call: bool):
        super().__init__()
        self.first, self.last, self.call = nn.Linear(4, 4), nn.Linear(4, 3), call

    def forward(self, x: Tensor) -> Tensor:
        made = torch.tanh(self.first(x))
        again = self.first(made) if self.call else made @ self.first.weight
        return self.last(again)


class Uncalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(x @ self.first.weight))


REFUSED = [
    (lambda: TwoPaths(skip=True), "'first'.*goes around it"),
    (Tied, "shared: first.weight and second.weight are one tensor"),
    (lambda: Twice(call=True), "'first'.*called 2 times"),
    (lambda: Twice(call=False), "'first'.*used outside its own call"),
    (Uncalled, "'first'.*without calling it"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_layers_outside_the_theorem_are_refused_or_left_out(make, message):
    problem = objective(make().double(), normal(6, 4), labels(6, 3))
    with pytest.raises(UnsupportedError, match=message):
        gradient_bounds(problem)
    found = gradient_bounds(problem, layers="cut")
    assert "last" in [layer.name for layer in found.layers]
    assert found.left_out
    assert bool((found.left <= found.right * ROUNDING).all())


def test_a_plain_chain_in_a_module_of_its_own_is_one():
    found = gradient_bounds(objective(TwoPaths(skip=False).double(), normal(6, 4), labels(6, 3)))
    assert [layer.name for layer in found.layers] == ["first", "last"]
    assert not found.left_out


def test_models_without_any_layer_of_the_chain_are_refused():
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.a(x)) * torch.tanh(self.b(x))

    with pytest.raises(UnsupportedError, match="run through none of the studied layers"):
        gradient_bounds(objective(Branches().double(), normal(6, 4), labels(6, 3)), layers="cut")
    embedded = nn.Sequential(nn.LayerNorm(4), nn.Tanh()).double()
    with pytest.raises(UnsupportedError, match="no studied parameter belongs to"):
        gradient_bounds(objective(embedded, normal(6, 4), labels(6, 4)))


def test_tokens_dropout_and_batch_statistics_are_refused():
    tokens = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, 3)).double()
    x = torch.randint(5, (6, 3), generator=torch.Generator().manual_seed(0))
    with pytest.raises(UnsupportedError, match=r"on 0 floating-point tensors.*int64"):
        gradient_bounds(objective(tokens, x, labels(6, 3)))
    for module in (nn.Dropout(0.5), nn.BatchNorm1d(4)):
        net = nn.Sequential(nn.Linear(4, 4), module, nn.Linear(4, 3)).double().train()
        with pytest.raises(InputError, match="module '1'"):
            gradient_bounds(objective(net, normal(6, 4), labels(6, 3)))


def test_options_out_of_range_are_named():
    problem = objective(random_mlp([4, 3], "tanh", seed=0), normal(6, 4), labels(6, 3))
    with pytest.raises(InputError, match="iterations=1"):
        gradient_bounds(problem, iterations=1)
    with pytest.raises(InputError, match="layers='all'"):
        gradient_bounds(problem, layers="all")
