"""Names of solvers, curvatures, losses and measurements as people write them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import wherefrom
from tests.problems import labels, normal
from tests.support import as_a_user
from wherefrom.curvature.choose import CURVATURES
from wherefrom.errors import InputError
from wherefrom.influence import resolve_measurement
from wherefrom.losses import resolve_loss
from wherefrom.names import resolve_name
from wherefrom.solvers.names import SOLVER_NAMES, solver_name


def fit(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    options = {"loss": "cross_entropy", "damping": 0.1, **options}
    return wherefrom.Influence(model, (normal(12, 4), labels(12)), progress=False, **options).fit()


@pytest.mark.parametrize("name", SOLVER_NAMES)
def test_every_solver_by_its_name_solves(name):
    influence = fit(solver=name.upper())
    scores = influence.scores((normal(2, 4, seed=5), labels(2)))
    assert bool(torch.isfinite(scores.values).all())
    if name != "auto":
        assert influence.settings()["solver"] == name


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("EKFAC", "ekfac"),
        ("EK-FAC", "ekfac"),
        ("ek fac", "ekfac"),
        ("Block-Diagonal", "block_diagonal"),
        (" blockdiagonal ", "block_diagonal"),
        ("Nyström", "nystrom"),
        ("LiSSA", "lissa"),
        ("Conjugate Gradients", "cg"),
        ("DataInf", "datainf"),
        ("AUTO", "auto"),
    ],
)
def test_solvers_by_other_spellings(written, meant):
    assert solver_name(written) == meant


@pytest.mark.parametrize("name", CURVATURES)
def test_curvatures_in_any_case(name):
    found = fit(curvature=name.upper().replace("_", "-"), damping=1.0).settings()["curvature"]
    assert name in ("auto", found)


@pytest.mark.parametrize("name", ["CE", "CrossEntropy", "Cross_Entropy", "cross entropy", "crossentropy"])
def test_cross_entropy_by_its_names(name):
    assert resolve_loss(name).name == "cross_entropy"


@pytest.mark.parametrize("name", ["BCE", "bce", "Binary-Cross-Entropy", "BCEWithLogits", "bce_with_logits"])
def test_binary_cross_entropy_by_its_names(name):
    assert resolve_loss(name).name == "binary_cross_entropy"


@pytest.mark.parametrize("name", ["LOSS", "Margin", "logit "])
def test_measurements_in_any_case(name):
    assert resolve_measurement(name, wherefrom.CrossEntropy()).name == name.strip().lower()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(solver="ekfca"), r"solver='ekfca': expected one of 'auto', .*Did you mean 'ekfac'\?"),
        (
            lambda: fit(solver="sgd"),
            r"solver='sgd': expected one of 'auto', 'exact'.*or a wherefrom\.solvers object",
        ),
        (lambda: fit(solver=3), "solver=3: expected"),
        (lambda: fit(solver=wherefrom.CG), "solver=.*expected"),
        (lambda: fit(curvature="hesian"), "curvature='hesian': .*Did you mean 'hessian'"),
        (lambda: fit(curvature=None), "curvature=None: expected"),
        (lambda: fit(loss="crossentrpy"), "loss='crossentrpy': .*Did you mean 'cross_entropy'"),
        (lambda: fit(loss="MSE"), "loss='MSE' is not clear.*'squared_error'"),
        (lambda: fit().scores((normal(1, 4), labels(1)), "margn"), "Did you mean 'margin'"),
        (lambda: fit().scores((normal(1, 4), labels(1)), 7), "measurement=7: expected one of 'loss'"),
    ],
)
def test_a_name_that_is_none_is_refused_with_a_hint(call, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        call()


def test_aliases_get_hints_too():
    with pytest.raises(InputError, match="Did you mean 'b'"):
        resolve_name("x", "betta", ("a", "b"), aliases={"beta": "b"})
