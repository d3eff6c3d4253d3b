"""Bad input: each mistake gets an error of its own type, whose message names the thing and the fix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import wherefrom.influence.room as room
from tests.support import as_a_user, digits, seeded, small_mlp, softmax_regression
from wherefrom import CG, Influence, LiSSA
from wherefrom.errors import (
    BatchDependenceError,
    DivergenceError,
    InputError,
    NonFiniteError,
    NotPositiveDefiniteError,
    OutOfMemoryError,
    UnsupportedError,
)


def linear() -> nn.Module:
    return seeded(lambda: nn.Linear(16, 3))


def data() -> tuple[Tensor, Tensor]:
    return digits(30, classes=3, pool=2)


def fit(model: nn.Module | None = None, train=None, **options) -> Influence:
    options = {"loss": "cross_entropy", "weight_decay": 0.01, **options}
    return Influence(model or linear(), train or data(), progress=False, **options).fit()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_or_infinity_in_the_data(value):
    x, y = data()
    x[17, 3] = value
    with pytest.raises(NonFiniteError, match=r"train: example 17 holds NaN or infinity.*drop missing values"):
        fit(train=(x, y))
    with pytest.raises(NonFiniteError, match="queries: example 17"):
        fit().scores((x, y))


def test_nan_in_the_parameters():
    model = linear()
    with torch.no_grad():
        model.bias[1] = float("nan")
    with pytest.raises(NonFiniteError, match=r"parameter 'bias' holds NaN.*learning rate"):
        fit(model)


def test_an_infinite_loss():
    def loss(outputs, targets):
        return -torch.log(torch.softmax(outputs, 1).gather(1, targets[:, None])[:, 0] * 0.0)

    with pytest.raises(NonFiniteError, match=r"losses of 'loss'|the loss of train example 0"):
        fit(loss=loss)


def test_outputs_that_overflow():
    model = linear()
    with torch.no_grad():
        model.weight.mul_(1e308)
    with pytest.raises(NonFiniteError, match="output for train example"):
        fit(model, (100 * data()[0], data()[1]))


def test_empty_data_and_empty_queries():
    x, y = data()
    with pytest.raises(InputError, match="train is empty"):
        fit(train=(x[:0], y[:0]))
    with pytest.raises(InputError, match="queries is empty"):
        fit().scores((x[:0], y[:0]))
    with pytest.raises(InputError, match="indices is empty"):
        fit().self_scores([])


def test_a_label_out_of_range():
    x, y = data()
    y[11] = 3
    with pytest.raises(InputError, match=r"train examples 0\.\.29: .*label 3 at position \(11,\)"):
        fit(train=(x, y))


def test_a_loss_that_returns_a_mean():
    with pytest.raises(InputError, match=r"returned a scalar.*one loss per example.*reduction='none'"):
        fit(loss=nn.functional.cross_entropy)


def test_a_loss_of_the_wrong_shape():
    def loss(outputs, targets):
        return (outputs - nn.functional.one_hot(targets, 3)).square()

    with pytest.raises(InputError, match=r"'loss' returned shape \(30, 3\).*flatten\(1\)\.sum\(1\)"):
        fit(loss=loss)


def test_an_unknown_loss():
    with pytest.raises(InputError, match=r"loss='cross_entropi': .*Did you mean 'cross_entropy'"):
        fit(loss="cross_entropi")


def test_no_parameter_matched():
    with pytest.raises(InputError, match=r"parameters: 'head\.\*' matches no parameter.*weight, bias"):
        fit(parameters="head.*")


def test_everything_frozen():
    model = linear().requires_grad_(False)
    with pytest.raises(InputError, match=r"all 2 selected parameters are frozen.*requires_grad_\(True\)"):
        fit(model)


def test_dropout_and_batch_statistics_on():
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 3), nn.Dropout(0.1)))
    with pytest.raises(InputError, match=r"module '1' is dropout in training mode.*model\.eval\(\)"):
        fit(model.train())
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3)))
    with pytest.raises(InputError, match=r"module '1' is batch normalisation.*model\.eval\(\)"):
        fit(model.train())


def test_losses_that_depend_on_the_batch():
    def centred(outputs, targets):
        return nn.functional.cross_entropy(outputs - outputs.mean(0), targets, reduction="none")

    with pytest.raises(BatchDependenceError, match=r"example \d+ has loss .* alone"):
        fit(loss=centred)


def indefinite() -> dict:
    """A network away from any minimum, with its true Hessian and no damping."""
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)), seed=1)
    return {"model": model, "curvature": "hessian", "damping": 0.0, "weight_decay": 0.0}


@pytest.mark.parametrize("solver", [CG(), "exact", "lissa"])
def test_an_indefinite_hessian_and_the_damping_that_repairs_it(solver):
    with pytest.raises(NotPositiveDefiniteError, match=r"damping=.*curvature='ggn'") as caught:
        fit(**indefinite(), solver=solver).scores(data())
    assert caught.value.eigenvalue < 0
    repaired = {**indefinite(), "damping": caught.value.damping}
    assert bool(torch.isfinite(fit(**repaired, solver=CG(rtol=1e-3)).scores(data()).values).all())
    auto = fit(**{**indefinite(), "damping": "auto"}, solver=CG(rtol=1e-3))
    assert auto.damping.value > -caught.value.eigenvalue


def test_lissa_that_diverges():
    plain = small_mlp(30)
    options = {"curvature": "ggn", "damping": 0.5, "solver": LiSSA(scale=0.1, depth=3000, batch_size=8)}
    with pytest.raises(DivergenceError, match=r"LiSSA diverged.*scale 0\.1.*scale=None.*raise it"):
        fit(plain.model, (plain.x, plain.y), **options).scores((plain.x[:2], plain.y[:2]))


def test_a_recipe_that_returns_another_architecture():
    plain = softmax_regression(30, classes=3)
    fitted = fit(plain.model, (plain.x, plain.y))
    with pytest.raises(InputError, match=r"another architecture.*'weight' is \(3, 8\), expected \(3, 16\)"):
        fitted.verify((plain.x[:2], plain.y[:2]), lambda train, seed: nn.Linear(8, 3), remove=1)


def test_out_of_memory_for_the_scores(monkeypatch):
    fitted = fit()
    monkeypatch.setattr(room, "available_memory", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match=r"30 queries × 30 training examples.*at most [12] queries"):
        fitted.scores(data())


def test_out_of_memory_while_solving(monkeypatch):
    fitted = fit(solver=CG())

    def exhausted(rhs):
        return torch.empty(10**15)  # the allocator's own failure

    monkeypatch.setattr(fitted.prepared, "solve", exhausted)
    with pytest.raises(OutOfMemoryError, match=r"while solving for a block of queries\. Lower memory="):
        fitted.scores(data())


def test_a_bad_memory_budget():
    with pytest.raises(InputError, match=r"memory='lots'.*'2GB'"):
        fit(memory="lots")


def test_an_iterable_only_data_set():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(*data())

    with pytest.raises(InputError, match=r"Stream can only be iterated.*map-style"):
        fit(train=Stream())


def test_a_model_that_is_no_module():
    with as_a_user(), pytest.raises(InputError, match=r"model is a LogisticRegression.*from_sklearn"):
        from sklearn.linear_model import LogisticRegression

        Influence(LogisticRegression(), data(), loss="cross_entropy")


def test_two_regularisers():
    with pytest.raises(InputError, match="both weight_decay and regulariser"):
        fit(regulariser=lambda values: values["bias"].square().sum())


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"curvature": "kfac"}, "curvature='kfac'"),
        ({"solver": "newton"}, "solver='newton'"),
        ({"damping": -1.0}, "damping=-1.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay": {"head": 0.1}}, "'head' matches none"),
    ],
)
def test_options_that_do_not_exist(options, found):
    with as_a_user(), pytest.raises(InputError, match=found):
        fit(**options)


def test_questions_that_cannot_be_answered():
    fitted = fit()
    with pytest.raises(
        InputError,
        match="measurement='accuracy': expected one of 'loss', 'margin', 'logit', or a Measurement",
    ):
        fitted.scores(data(), "accuracy")
    with pytest.raises(InputError, match="refine=-1"):
        fitted.scores(data(), refine=-1)
    with pytest.raises(InputError, match="30 is outside the training set"):
        fitted.parameter_influence([30])
    regression = fit(train=(data()[0], data()[0][:, :3]), loss="squared_error")
    with pytest.raises(UnsupportedError, match=r"measurement='margin' needs class scores"):
        regression.scores((data()[0], data()[0][:, :3]), "margin")
    with pytest.raises(UnsupportedError, match=r"'squared_error'|'smooth'|likelihood|hinge"):
        fit(loss=lambda outputs, targets: outputs.square().sum(1), curvature="fisher").scores(data())
