"""Layers called in odd ways: factored gradients are right, or taken densely with a reason."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.gradients.layer_checks import exact
from tests.gradients.layer_models import (
    plain,
    shared_whole,
)
from wherefrom.errors import UnsupportedError


# What a forward pass may do with its layers.
def twice(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(torch.tanh(m.first(x)))))


def at_other_lengths(m: nn.Module, x: Tensor) -> Tensor:
    both = m.first(x[:, :2]).sum(1) + m.first(x[:, 2:]).tanh().sum(1)
    return m.last(both)


def output_overwritten(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh_(m.first(x)))


def view_overwritten(m: nn.Module, x: Tensor) -> Tensor:
    y = m.first(x)
    y[:, 0].mul_(2)
    y.view(-1).sigmoid_()
    return m.last(y)


def weight_used_outside(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(x)) @ m.first.weight)


def only_used_outside(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(F.linear(x, m.first.weight, m.first.bias)))


def part_without_gradients(m: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        shift = m.first(2 * x)
    return m.last(torch.tanh(m.first(x) + shift))


def detached(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(x)).detach())


def given_by_name(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(input=torch.tanh(m.first(input=x)))


def never_called(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(x)


def at_many_positions(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(x)).mean((1, 2)))


def at_flattened_positions(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(x.flatten(0, 1))).unflatten(0, x.shape[:2]).mean(1))


def on_a_constant(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(x * m.first(torch.linspace(-1, 1, 4, dtype=x.dtype))))


def on_a_constant_of_several_positions(m: nn.Module, x: Tensor) -> Tensor:
    places = m.first(torch.linspace(-1, 1, 12, dtype=x.dtype).view(1, 3, 4))
    return m.last(torch.tanh(x * places).sum(1))


def on_a_constant_and_on_examples(m: nn.Module, x: Tensor) -> Tensor:
    return m.last(torch.tanh(m.first(x) * m.first(torch.linspace(-1, 1, 4, dtype=x.dtype))))


# The rule of the first layer, and a piece of the reason.
USES = {
    twice: ((4,), "linear", ""),
    at_other_lengths: ((5, 4), "linear", ""),
    output_overwritten: ((4,), "linear", ""),
    view_overwritten: ((4,), "linear", ""),
    weight_used_outside: ((4,), "dense", "gives other gradients than autograd"),
    only_used_outside: ((4,), "dense", "never called"),
    given_by_name: ((4,), "linear", ""),
    never_called: ((4,), "linear", "the outputs do not depend on it"),
    at_many_positions: ((2, 3, 4), "linear", ""),
    at_flattened_positions: ((3, 4), "linear", ""),
    on_a_constant: ((4,), "linear", ""),
    on_a_constant_of_several_positions: ((3, 4), "linear", ""),
    on_a_constant_and_on_examples: ((4,), "dense", ""),
}


@pytest.mark.parametrize("body", USES, ids=lambda body: body.__name__)
def test_uses_of_a_layer(body):
    shape, rule, reason = USES[body]
    rules = exact(plain(body, shape))
    assert rules["first"][0] == rule and reason in rules["first"][1], rules
    assert rules["last"] == ("linear", "")


@pytest.mark.parametrize("body", [part_without_gradients, detached], ids=lambda body: body.__name__)
def test_a_layer_that_is_cut_off_is_refused(body):
    with pytest.raises(UnsupportedError, match=r"'first\.weight'"):
        exact(plain(body, (4,)))


def test_an_input_overwritten_in_place():
    def body(m: nn.Module, x: Tensor) -> Tensor:
        own = x.clone()
        y = m.first(own)
        own.mul_(3)
        return m.last(torch.tanh(y + own))

    problem = plain(body)
    problem.model.first.weight.requires_grad_(False)  # autograd itself would refuse it with this one studied
    assert exact(problem)["first"] == ("linear", "")


def test_frozen_parts():
    problem = plain(twice)
    problem.model.first.weight.requires_grad_(False)
    assert exact(problem) == {"first": ("linear", ""), "last": ("linear", "")}


def test_two_modules_with_the_same_parameters():
    problem = plain(shared_whole, other=nn.Linear(4, 4))
    problem.model.other.weight, problem.model.other.bias = (
        problem.model.first.weight,
        problem.model.first.bias,
    )
    assert exact(problem)["first"] == ("linear", "shared by 'first' and 'other'")


def test_transposed_weights_are_no_shared_parameter():
    """Parameters that are views of one another cannot be told apart by name: each is studied on its own."""
    problem = plain(shared_whole, other=nn.Linear(4, 4))
    problem.model.other.weight = nn.Parameter(problem.model.first.weight.detach().T)
    rules = exact(problem)
    assert rules["first"] == rules["other"] == ("linear", "")


def test_convolutions_that_share_a_weight_but_not_the_stride():
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.one(x[:, None]).sum(2) + m.two(x[:, None]).tanh().sum(2))

    problem = plain(body, one=nn.Conv1d(1, 4, 2, bias=False), two=nn.Conv1d(1, 4, 2, stride=2, bias=False))
    problem.model.two.weight = problem.model.one.weight
    assert exact(problem)["one"][0] == "dense"


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_weight_norm_is_not_taken_for_a_plain_layer():
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(torch.tanh(m.first(x)))

    problem = plain(body)
    nn.utils.parametrizations.weight_norm(problem.model.first)
    assert {rule for rule, _ in exact(problem).values()} == {"dense", "linear"}


def test_a_wrapped_parameter_under_an_old_name():
    class Gain(nn.Linear):
        pass

    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(torch.tanh(m.gain(m.first(x))))

    assert exact(plain(body, gain=Gain(4, 4)))["gain"] == ("plain module", "Gain has no layer rule")


def test_a_module_with_several_outputs():
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.recurrent(m.first(x))[0][:, -1])

    rules = exact(plain(body, (3, 4), recurrent=nn.GRU(4, 4, batch_first=True)))
    assert rules["recurrent"][0] == "dense"
