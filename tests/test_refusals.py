"""Models and measurements that would give wrong numbers or raw errors, and names that messages promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import wherefrom
from tests.problems import labels, normal
from wherefrom import Influence
from wherefrom.errors import BatchDependenceError, InputError, NonFiniteError, UnsupportedError


@pytest.fixture(scope="module")
def influence():
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    return Influence(model, (normal(20, 5), labels(20)), loss="cross_entropy", weight_decay=0.1).fit()


@pytest.mark.parametrize(
    ("measurement", "error", "message"),
    [
        (lambda f, y: F.cross_entropy(f, y), InputError, "one number per query"),
        (lambda f, y: f, InputError, "one number per query"),
        (lambda f, y: 1.0, InputError, "a float"),
        (lambda f, y: f.argmax(1).double(), InputError, "differentiably"),
        (lambda f, y: f.sum(1) * torch.nan, NonFiniteError, "NaN"),
        (lambda f, y: (f - f.mean(0)).square().sum(1), BatchDependenceError, "alone"),
    ],
)
def test_a_measurement_is_one_finite_number_per_query(influence, measurement, error, message):
    with pytest.raises(error, match=message):
        influence.scores((normal(4, 5), labels(4)), measurement)


def test_a_margin_of_an_ignored_label_is_refused(influence):
    with pytest.raises(InputError, match="class for every query"):
        influence.scores((normal(2, 5), torch.tensor([1, -100])), "margin")


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_the_hessian_of_weight_normalisation_is_refused_and_its_ggn_is_right():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    model = nn.Sequential(layer, nn.Tanh(), nn.Linear(4, 3)).double()
    train = (normal(20, 5), labels(20))
    with pytest.raises(UnsupportedError, match="weight normalisation"):
        Influence(model, train, loss="cross_entropy", curvature="hessian", damping=1.0).fit()
    assert Influence(model, train, loss="cross_entropy", damping=1.0).fit().curvature.name == "ggn"


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_an_operation_without_a_second_derivative_has_a_right_ggn_and_no_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(7, 4), nn.Linear(4, 3)).double()
    train = (torch.randint(0, 7, (12, 3)), labels(12))
    arguments = {"loss": "cross_entropy", "damping": 1.0, "progress": False}
    found = Influence(model, train, solver="cg", **arguments).fit().scores(train).values
    summed = nn.Sequential(nn.Embedding(7, 4), Mean(), nn.Linear(4, 3)).double()
    summed.load_state_dict(
        {"0.weight": model[0].weight, "2.weight": model[1].weight, "2.bias": model[1].bias}
    )
    expected = Influence(summed, train, solver="exact", **arguments).fit().scores(train).values
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    for mode in ("auto", "reverse_over_reverse"):
        with pytest.raises(UnsupportedError, match=r"embedding_bag.*curvature='ggn'"):
            Influence(model, train, curvature="hessian", hvp_mode=mode, **arguments).fit()


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


def test_eigh_has_no_dual():
    with pytest.raises(InputError, match="primal"):
        wherefrom.Exact(method="eigh", space="dual")


def test_every_public_name_that_a_message_or_docstring_mentions_exists():
    source = Path(wherefrom.__file__).parent
    mentioned = {
        name
        for file in source.rglob("*.py")
        for name in re.findall(r"wherefrom\.([A-Z]\w+)", file.read_text())
    }
    assert mentioned and not {name for name in mentioned if not hasattr(wherefrom, name)}


def test_self_scores_are_readable(influence):
    scores = influence.self_scores([3, 1])
    assert "2 examples" in repr(scores)
    assert scores.to_pandas()["train"].tolist() == [3, 1]
