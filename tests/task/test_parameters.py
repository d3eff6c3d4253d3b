"""Which parameters are studied, and the flat vector they form."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.problems import PROBLEMS, TiedAutoencoder, mlp, normal, seeded, tanh_mlp
from tests.support import as_a_user
from wherefrom import Influence
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.task import ParameterSet


@pytest.mark.parametrize(
    ("select", "names"),
    [
        (None, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("2.bias", ["2.bias"]),
        ("*.weight", ["0.weight", "2.weight"]),
        ("2", ["2.weight", "2.bias"]),
        ("2.", ["2.weight", "2.bias"]),
        (["2.bias", "0.weight"], ["0.weight", "2.bias"]),
    ],
)
def test_selection_by_names_globs_and_submodules(select, names):
    parameters = ParameterSet(mlp(), select)
    assert parameters.names == names
    assert set(parameters.names + parameters.unselected) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert (
        parameters.size
        == sum(value.numel() for value in parameters.values.values())
        == len(parameters.flat())
    )


def test_selection_by_module():
    model = mlp()
    assert ParameterSet(model, model[2]).names == ["2.weight", "2.bias"]
    with pytest.raises(
        InputError, match=r"parameters=Linear\(\.\.\.\): this module is not part of the model"
    ):
        ParameterSet(model, nn.Linear(4, 3))
    with pytest.raises(InputError, match="has no parameters"):
        ParameterSet(model, model[1])


def test_frozen_parameters_are_left_out_and_named():
    model = mlp()
    model[0].weight.requires_grad_(False)
    parameters = ParameterSet(model)
    assert parameters.names == ["0.bias", "2.weight", "2.bias"]
    assert parameters.frozen == ["0.weight"]


def test_everything_frozen_is_refused():
    model = mlp().requires_grad_(False)
    with pytest.raises(InputError, match=r"all 4 selected parameters are frozen .*requires_grad_\(True\)"):
        ParameterSet(model)


def test_no_match_is_refused_with_the_names_there_are():
    with pytest.raises(InputError, match=r"'head' matches no parameter.*the model has 0\.weight, 0\.bias"):
        ParameterSet(mlp(), ["0", "head"])


def test_a_model_without_parameters_is_refused():
    with pytest.raises(InputError, match="has no parameters"):
        ParameterSet(nn.Tanh())


def test_tied_parameters_appear_once():
    model = seeded(TiedAutoencoder)
    assert ParameterSet(model).names == ["encoder.weight", "encoder.bias", "decoder.bias"]
    assert ParameterSet(model, model.decoder).names == ["encoder.weight", "decoder.bias"]


def test_a_tied_parameter_is_found_by_its_second_name():
    model = seeded(TiedAutoencoder)
    assert ParameterSet(model, "decoder.weight").names == ["encoder.weight"]
    assert ParameterSet(model, "decoder").names == ["encoder.weight", "decoder.bias"]
    assert ParameterSet(model, ["encoder.weight", "decoder.weight"]).names == ["encoder.weight"]


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ([], "parameters is empty: expected None"),
        ((), "parameters is empty: expected None"),
        (0, "parameters is of type int; expected None"),
        (lambda name: True, "parameters is of type function"),
        ([0], "parameters holds an item of type int"),
    ],
)
def test_selections_of_another_kind_are_refused(select, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        ParameterSet(mlp(), select)


@pytest.mark.parametrize("dtype", ["float64", 64, float, torch.float16, torch.bfloat16, torch.int64])
def test_other_dtypes_than_single_and_double_are_refused(dtype):
    with (
        as_a_user(),
        pytest.raises(InputError, match=r"dtype=.*: expected torch\.float32, torch\.float64 or None"),
    ):
        ParameterSet(mlp(), dtype=dtype)


def test_parameters_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"parameter 'weight' was made inside torch\.inference_mode\(\)"):
        ParameterSet(model)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_named(bad):
    model = mlp()
    model[2].bias.data[1] = bad
    with pytest.raises(NonFiniteError, match=r"parameter '2\.bias' holds NaN or infinity"):
        ParameterSet(model)


def test_half_precision_is_computed_in_single():
    assert ParameterSet(mlp().half()).dtype == torch.float32
    assert ParameterSet(mlp().float()).dtype == torch.float32
    assert ParameterSet(mlp()).dtype == torch.float64
    assert ParameterSet(mlp().float(), dtype=torch.float64).dtype == torch.float64


shapes = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=5)


@given(shapes=shapes, rows=st.integers(1, 4), seed=st.integers(0, 1000))
def test_flat_vectors_and_named_tensors_are_the_same_thing(shapes, rows, seed):
    model = nn.Module()
    for i, shape in enumerate(shapes):
        model.register_parameter(f"p{i}", nn.Parameter(torch.zeros(shape, dtype=torch.float64)))
    parameters = ParameterSet(model)
    flat = normal(rows, parameters.size, seed=seed)
    named = parameters.unflatten(flat[0])
    assert [tuple(named[name].shape) for name in parameters.names] == shapes
    assert torch.equal(parameters.flatten(named), flat[0])
    assert torch.equal(parameters.flatten(list(named.values())), flat[0])
    parts = parameters.unflatten_rows(flat)
    assert [tuple(part.shape) for part in parts] == [(rows, *shape) for shape in shapes]
    assert torch.equal(parameters.flatten_rows(parts), flat)
    assert all(torch.equal(part[0], named[name]) for part, name in zip(parts, parameters.names))


@given(st.sampled_from([(), (3,), (2, 2)]))
def test_fingerprints_follow_values_and_names(shape):
    model = nn.Module()
    model.register_parameter("a", nn.Parameter(torch.zeros(shape)))
    first = ParameterSet(model).fingerprint()
    assert ParameterSet(model).fingerprint() == first
    changed = copy.deepcopy(model)
    changed.a.data += 1e-3
    renamed = nn.Module()
    renamed.register_parameter("b", model.a)
    assert len({first, ParameterSet(changed).fingerprint(), ParameterSet(renamed).fingerprint()}) == 3


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_model_is_as_it_was_after_everything(name):
    problem = PROBLEMS[name]()
    model = problem.model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    wanted = {key: value.requires_grad for key, value in model.named_parameters()}
    influence = Influence(
        model, problem.data, loss=problem.loss, damping=0.1, progress=False, **problem.options
    ).fit()
    influence.scores(problem.data)
    influence.self_scores([0, 1])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert {key: value.requires_grad for key, value in model.named_parameters()} == wanted
    assert all(value.grad is None for value in model.parameters())
    assert not model._forward_hooks
    assert not any(module._forward_hooks for module in model.modules())


def test_values_are_copies():
    problem = tanh_mlp()
    objective = problem.objective()
    first = objective.parameters.flat()
    problem.model[0].weight.data += 1
    assert torch.equal(objective.parameters.flat(), first)
