"""`R(θ)`: its gradient and Hessian against dense autograd."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev

from tests.problems import mlp, tanh_mlp
from tests.support import as_a_user
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.task import CustomRegulariser, Objective, ParameterSet, WeightDecay
from wherefrom.testing import check_operator


def test_one_weight_decay_for_all():
    parameters = ParameterSet(mlp())
    decay = WeightDecay(parameters, 0.25)
    torch.testing.assert_close(decay.gradient(), 0.25 * parameters.flat())
    expected = 0.25 * torch.eye(parameters.size, dtype=torch.float64)
    torch.testing.assert_close(check_operator(decay.hessian()), expected)
    assert decay.hessian().lower_bound == 0.25
    assert decay.settings() == {"weight_decay": 0.25}


def test_weight_decay_by_name_glob_and_submodule_the_last_match_counting():
    parameters = ParameterSet(mlp())
    decay = WeightDecay(parameters, {"*.weight": 0.1, "2": 0.3})
    assert decay.per_name == {"0.weight": 0.1, "0.bias": 0.0, "2.weight": 0.3, "2.bias": 0.3}
    assert decay.settings()["weight_decay"] == decay.per_name
    alphas = torch.cat([torch.full((v.numel(),), decay.per_name[k]) for k, v in parameters.values.items()])
    torch.testing.assert_close(decay.gradient(), alphas.double() * parameters.flat(), rtol=1e-6, atol=0)
    assert decay.hessian().lower_bound == 0.0


def test_a_submodule_may_end_in_a_dot_as_it_may_where_parameters_are_selected():
    parameters = ParameterSet(mlp())
    assert WeightDecay(parameters, {"2.": 0.3}).per_name == WeightDecay(parameters, {"2": 0.3}).per_name


@pytest.mark.parametrize("alpha", [np.float32(0.25), np.float64(0.25), torch.tensor(0.25), Fraction(1, 4)])
def test_weight_decay_may_be_a_number_of_any_kind(alpha):
    with as_a_user():
        decay = WeightDecay(ParameterSet(mlp()), alpha)
    assert decay.settings() == {"weight_decay": 0.25}
    assert bool((decay.diagonal == 0.25).all())


@pytest.mark.parametrize("bad", [True, "0.1", torch.ones(2), None])
def test_weight_decay_that_is_no_number_is_refused(bad):
    with as_a_user(), pytest.raises(InputError, match=r"weight_decay=.*expected a finite number ≥ 0"):
        WeightDecay(ParameterSet(mlp()), bad)


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf")])
def test_weight_decay_must_be_finite_and_not_negative(bad):
    with pytest.raises(InputError, match="expected a finite number ≥ 0"):
        WeightDecay(ParameterSet(mlp()), bad)


def test_a_key_that_matches_nothing_is_refused():
    with pytest.raises(InputError, match=r"weight_decay: 'head' matches none of 0\.weight"):
        WeightDecay(ParameterSet(mlp()), {"head": 0.1})


def smooth(named):
    return (named["0.weight"] ** 4).sum() + (named["2.weight"].sum() * named["0.bias"].sum()).cos()


def linear(named):
    return named["2.bias"].sum() * 3.0


@pytest.mark.parametrize("function", [smooth, linear])
def test_any_regulariser_against_dense_autograd(function):
    parameters = ParameterSet(mlp())
    with torch.no_grad():  # as a user's script may be
        custom = CustomRegulariser(parameters, function)

    def plain(theta):
        return function(parameters.unflatten(theta))

    torch.testing.assert_close(custom.gradient(), jacrev(plain)(parameters.flat()))
    torch.testing.assert_close(check_operator(custom.hessian()), hessian(plain)(parameters.flat()))
    assert custom.settings() == {"regulariser": function.__qualname__}


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda named: 0.0, InputError, "one differentiable number, found float"),
        (lambda named: named["0.bias"], InputError, r"found Tensor \(5,\)"),
        (lambda named: named["0.bias"].detach().sum(), InputError, "one differentiable number"),
        (lambda named: named["0.bias"].sum() * float("inf"), NonFiniteError, "NaN or infinite"),
    ],
)
def test_what_is_no_regulariser_is_refused(function, error, message):
    with pytest.raises(error, match=message):
        CustomRegulariser(ParameterSet(mlp()), function)


def test_weight_decay_and_a_regulariser_together_are_refused():
    with pytest.raises(InputError, match="both weight_decay and regulariser were given"):
        tanh_mlp().objective(weight_decay=0.1, regulariser=smooth)


def test_the_same_objective_for_another_model_and_training_set():
    torch.manual_seed(0)
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    data = (torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1]))
    given = {"loss": "cross_entropy", "forward": lambda m, b: 2 * m(b[0]), "dtype": torch.float64}
    for penalty in ({"weight_decay": {"weight": 0.3}}, {"regulariser": lambda p: p["bias"].square().sum()}):
        old = Objective(model, data, **given, **penalty)
        new = old.like(other, (data[0][:3], data[1][:3]))
        direct = Objective(other, (data[0][:3], data[1][:3]), **given, **penalty)
        assert new.n == 3 and new.dtype == torch.float64
        batch = new.examples.batch([0, 1, 2])
        torch.testing.assert_close(
            new.losses(new.parameters.values, batch), direct.losses(direct.parameters.values, batch)
        )
        torch.testing.assert_close(new.regulariser.gradient(), direct.regulariser.gradient())
