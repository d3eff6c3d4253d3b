"""Gradient norms, geometric complexity and scalars against plain autograd, example by example."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.func import jacrev

from tests.geometry.geometry_problems import labels, margins, normal, random_mlp
from tests.support import as_a_user
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses import SquaredError
from wherefrom.studies.geometry import geometric_complexity, gradient_norms
from wherefrom.task import Objective


def problem(n: int = 6, **options):
    net = random_mlp([5, 7, 3], "tanh", seed=0)
    x, y = normal(n, 5), labels(n, 3)
    return net, x, y, Objective(net, (x, y), loss="cross_entropy", **options)


def loss(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    ("scalar", "function"),
    [
        ("margin", margins),
        ("loss", loss),
        ("logit", lambda f, y: f.gather(1, y[:, None])[:, 0]),
        (2, lambda f, y: f[:, 2]),
        (lambda f, y: f.square().sum(1), lambda f, y: f.square().sum(1)),
    ],
)
def test_norms_are_those_of_one_backward_pass_per_example(scalar, function):
    net, x, y, objective = problem()
    found = gradient_norms(objective, scalar=scalar)
    for i in range(6):
        point = x[i : i + 1].clone().requires_grad_()
        made = torch.autograd.grad(function(net(point), y[i : i + 1]).sum(), [point, *net.parameters()])
        assert float(found.inputs[i]) == pytest.approx(float(made[0].norm()))
        total = sum(float(part.square().sum()) for part in made[1:])
        assert float(found.parameters[i]) == pytest.approx(total**0.5)
        first = sum(float(part.square().sum()) for part in made[1:3])
        assert float(found.layers["0"][i]) == pytest.approx(first**0.5)
    torch.testing.assert_close(found.ratio, found.inputs / found.parameters)


def test_other_examples_are_read_as_the_training_set_is():
    net, _, _, objective = problem()
    x, y = normal(3, 5, seed=9), labels(3, 3, seed=9)
    direct = gradient_norms(Objective(net, (x, y), loss="cross_entropy"))
    torch.testing.assert_close(gradient_norms(objective, (x, y)).inputs, direct.inputs)
    read = objective.read((x, y), role="queries")
    torch.testing.assert_close(gradient_norms(objective, read).parameters, direct.parameters)


def test_the_complexity_is_the_mean_square_of_dense_jacobians():
    net, x, _, objective = problem()
    expected = sum(float(jacrev(net)(one).detach().square().sum()) for one in x) / len(x)
    found = geometric_complexity(objective)
    assert found.value == pytest.approx(expected)
    assert (found.standard_error, found.products) == (0, 3)


@pytest.mark.parametrize("probes", [1, 4])
def test_probes_are_unbiased_with_the_error_they_state(probes):
    *_, objective = problem(n=40)
    exact = geometric_complexity(objective).value
    drawn = [geometric_complexity(objective, probes=probes, seed=seed) for seed in range(60)]
    values = torch.tensor([one.value for one in drawn])
    stated = math.sqrt(sum(one.standard_error**2 for one in drawn) / len(drawn))
    assert abs(float(values.mean()) - exact) < 4 * stated / math.sqrt(len(drawn))
    spread = float(values.std())
    assert spread < 1.3 * stated  # with one probe the stated error is an upper bound
    if probes > 1:
        assert spread > 0.7 * stated
    assert all(one.products == probes for one in drawn)


def test_one_probe_of_one_example_says_nothing_of_its_spread():
    *_, objective = problem()
    found = geometric_complexity(objective, (normal(1, 5), labels(1, 3)), probes=1)
    assert math.isnan(found.standard_error)


def test_the_complexity_needs_no_chain():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4, dtype=torch.float64)

        def forward(self, x):
            return x + torch.relu(self.inner(x))

    net, x = Skip(), normal(5, 4)
    expected = sum(float(jacrev(net)(one).detach().square().sum()) for one in x) / 5
    objective = Objective(net, (x, labels(5, 4)), loss="cross_entropy")
    assert geometric_complexity(objective).value == pytest.approx(expected)


def test_bad_arguments_are_named():
    *_, objective = problem()
    with pytest.raises(InputError, match="probes=0"):
        geometric_complexity(objective, probes=0)
    with pytest.raises(InputError, match="scalar=7 is the index"):
        gradient_norms(objective, scalar=7)
    with pytest.raises(InputError, match="measurement='entropy'"):
        gradient_norms(objective, scalar="entropy")
    with pytest.raises(InputError, match="one number per example"):
        gradient_norms(objective, scalar=lambda f, y: f.sum())
    with pytest.raises(InputError, match="differentiably"):
        gradient_norms(objective, scalar=lambda f, y: f.detach()[:, 0])
    with as_a_user(), pytest.raises(InputError, match="scalar=None is of type NoneType"):
        gradient_norms(objective, scalar=None)


def test_losses_without_classes_and_several_inputs_are_refused():
    net, x = nn.Linear(4, 2).double(), normal(5, 4)
    with pytest.raises(UnsupportedError, match="margin"):
        gradient_norms(Objective(net, (x, normal(5, 2)), loss=SquaredError()))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Linear(4, 2, dtype=torch.float64)

        def forward(self, a, b):
            return self.own(a + b)

    with pytest.raises(UnsupportedError, match="2 floating-point tensors"):
        gradient_norms(Objective(Two(), (x, x, labels(5, 2)), loss="cross_entropy"))
