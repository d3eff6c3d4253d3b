"""The class most users meet: the life of one `Influence`, its settings, and what it does not touch."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import wherefrom
from tests.support import digits, seeded, softmax_regression
from wherefrom import CG, Exact, Influence
from wherefrom.errors import InputError


def make(**options) -> Influence:
    plain = softmax_regression(60, classes=3)
    options = {"loss": "cross_entropy", "weight_decay": 0.01, **options}
    return Influence(plain.model, (plain.x, plain.y), progress=False, **options)


def test_everything_that_is_exported_exists_and_is_documented():
    for name in wherefrom.__all__:
        exported = getattr(wherefrom, name)
        assert name == "__version__" or exported.__doc__


def test_from_model_to_scores_in_a_few_lines():
    influence = make().fit()
    scores = influence.scores(digits(4, start=300, classes=3, pool=2))
    assert (len(scores), scores.n_train) == (4, 60)
    assert influence.minimum.verdict == "minimum"
    assert len(influence.self_scores()) == 60
    assert influence.parameter_influence([0, 1]).shape == (2, 51)


def test_fit_comes_first():
    for use in (
        lambda i: i.scores(None),
        lambda i: i.minimum,
        lambda i: i.settings(),
        lambda i: i.self_scores(),
    ):
        with pytest.raises(InputError, match=r"not fitted yet: call \.fit\(\) first"):
            use(make())


def test_settings_are_json_and_say_what_was_chosen_and_why():
    settings = json.loads(json.dumps(make().fit().settings()))
    assert settings["curvature"] == "hessian" and "affine" in settings["curvature_reason"]
    assert settings["damping"] == 0.0 and "none needed" in settings["damping_reason"]
    assert settings["solver"] == "exact" and "small enough" in settings["solver_reason"]
    assert (settings["n"], settings["p"], settings["seed"]) == (60, 51, 0)
    assert settings["weight_decay"] == 0.01 and settings["dtype"] == "float64"


def test_settings_of_a_network():
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)))
    model[0].bias.requires_grad_(False)
    data = digits(30, classes=3, pool=2)
    options = {"parameters": ["0", "2.weight"], "solver": CG(rtol=1e-3), "seed": 3, "progress": False}
    settings = Influence(model, data, loss="cross_entropy", **options).fit().settings()
    assert settings["curvature"] == "ggn" and settings["rtol"] == 1e-3 and settings["seed"] == 3
    assert settings["parameters"] == ["0.weight", "2.weight"]
    assert settings["frozen"] == ["0.bias"] and settings["unselected"] == ["2.bias"]
    assert settings["damping"] > 0 and "condition number" in settings["damping_reason"]


def test_the_model_is_read_and_never_changed():
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))).float()
    before = copy.deepcopy(model.state_dict())
    x, y = digits(30, classes=3, pool=2)
    influence = Influence(
        model, (x.float(), y), loss="cross_entropy", dtype=torch.float64, progress=False
    ).fit()
    influence.scores((x[:2].float(), y[:2]))
    influence.self_scores([1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in model.parameters())
    assert not model.training


def test_every_form_of_the_same_data_gives_the_same_scores():
    plain = softmax_regression(40, classes=3)
    x, y = plain.x, plain.y
    queries = (x[:3], y[:3])
    forms = {
        "tensors": ((x, y), queries),
        "arrays": ((x.numpy(), y.numpy()), (x[:3].numpy(), y[:3].numpy())),
        "data set": (TensorDataset(x, y), TensorDataset(*queries)),
        "items": (list(zip(x, y)), list(zip(*queries))),
        "dict": ({"input": x, "labels": y}, {"input": x[:3], "labels": y[:3]}),
    }
    results = []
    for train, asked in forms.values():
        influence = Influence(
            plain.model, train, loss=nn.CrossEntropyLoss(), weight_decay=0.01, progress=False
        )
        results.append(influence.fit().scores(asked).values)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-9, atol=1e-12)


def test_a_model_and_a_loss_of_ones_own():
    """`forward`, `target` and `collate` say how unusual batches are used; the loss is any function."""
    plain = softmax_regression(40, classes=3)
    items = [{"pixels": x, "digit": int(y)} for x, y in zip(plain.x, plain.y)]

    def collate(chosen):
        return torch.stack([item["pixels"] for item in chosen]), [item["digit"] for item in chosen]

    def loss(outputs, targets):
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    influence = Influence(
        plain.model,
        items,
        loss=loss,
        weight_decay=0.01,
        collate=collate,
        forward=lambda model, batch: model(batch[0]),
        target=lambda batch: torch.tensor(batch[1]),
        curvature="ggn",
        solver=Exact(space="primal"),
        damping=0.1,
        progress=False,
    ).fit()
    scores = influence.scores(items[:4])
    expected = plain.scores((plain.x[:4], plain.y[:4]), plain.ggn(), 0.1)
    torch.testing.assert_close(scores.values, expected, rtol=1e-8, atol=1e-10)


def test_any_regulariser_counts_in_the_curvature():
    plain = softmax_regression(40, classes=3)

    def quartic(values):
        return 0.25 * sum((value**4).sum() for value in values.values())

    influence = Influence(
        plain.model,
        (plain.x, plain.y),
        loss="cross_entropy",
        regulariser=quartic,
        damping=0.1,
        progress=False,
    ).fit()
    matrix = plain.hessian() - torch.diag(plain.decay) + torch.diag(3 * plain.theta**2)
    queries = (plain.x[:3], plain.y[:3])
    expected = plain.scores(queries, matrix, 0.1)
    torch.testing.assert_close(influence.scores(queries).values, expected, rtol=1e-8, atol=1e-10)
    assert influence.settings()["regulariser"].endswith("quartic")
