"""The flatness studies, at sizes that take seconds, and their parts against closed forms and plain loops."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import cross_entropy

import wherefrom

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "flatness"))

import agreement
import generalisation
import replicas
import trained_nets
import trust
from data_files import DataError
from flatness_measures import DAMPING, flatness
from rank_correlations import rank_correlation
from row_files import RowFile
from small_images import ImageSet, load
from small_networks import network


@pytest.mark.slow
def test_generalisation_trains_measures_and_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trained_nets, "LEARNING_RATES", {"mlp": (0.3, 0.5)})
    monkeypatch.setattr(trained_nets, "BATCH_SIZES", (20, 40))
    command = ["--out", str(tmp_path), "--sets", "digits", "--kinds", "mlp", "--seeds", "1", "--train", "40"]
    found = generalisation.main([*command, "--test", "60"])
    assert found["networks"] == 4 and not found["left_out"]
    assert {line["measure"] for line in found["table"]} == {"trace", "largest", "dimension", "complexity"}
    assert "trace of the Hessian" in capsys.readouterr().out
    assert (tmp_path / "flatness-generalisation.png").is_file()
    assert json.loads((tmp_path / "generalisation.json").read_text())["networks"] == 4
    # The last measure cut off in the middle of its line: only that one is made again, and the table is equal.
    file = tmp_path / "measures.jsonl"
    file.write_text(file.read_text()[:-30])
    trained = (tmp_path / "nets.jsonl").read_text()
    again = generalisation.main([*command, "--test", "60"])
    # Compared as text, where what is not defined (NaN) equals itself.
    assert json.dumps(again["table"]) == json.dumps(found["table"])
    assert (tmp_path / "nets.jsonl").read_text() == trained
    with pytest.raises(DataError, match="another run"):
        generalisation.main([*command, "--test", "61"])


@pytest.mark.slow
def test_trust_compares_influence_with_both_retrainings(tmp_path, capsys, monkeypatch):
    recipe = replicas.Recipe("penalised", parameter_penalty=0.05, batch_size=20, steps=150)
    monkeypatch.setattr(trust, "RECIPES", (recipe,))
    command = ["--out", str(tmp_path), "--seeds", "1", "--kinds", "mlp", "--train", "60"]
    command += ["--singles", "2", "--groups", "2", "--queries", "6"]
    (line,) = trust.main(command)
    assert "penalised" in capsys.readouterr().out
    assert (tmp_path / "flatness-trust.png").is_file()
    assert line["refused"] == 0
    # From minimum to minimum, influence with the Hessian gets the direction right.
    assert line["minimum_single_pearson"][0] > 0.5
    before = (tmp_path / "trust.jsonl").read_text()
    assert trust.main(command)[0]["recipe_group_slope"][0] == line["recipe_group_slope"][0]
    assert (tmp_path / "trust.jsonl").read_text() == before


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_replicas_are_what_training_them_one_by_one_gives(kind):
    """Against a loop that trains each network alone with the package's own penalties."""
    images = load("digits", None, 24, 10)
    x, y = images.train[0].double(), images.train[1]
    recipe = replicas.Recipe("both", parameter_penalty=0.1, input_penalty=0.05, batch_size=24, steps=3)
    weights = torch.ones(2, 24, dtype=torch.float64)
    found = replicas.train_replicas(recipe, kind, (x, y), weights, 0)
    model = network(kind, 8, 0, hidden=replicas.HIDDEN, channels=replicas.CHANNELS).double()
    for _ in range(3):
        loss = (
            cross_entropy(model(x), y)
            + 0.1 * wherefrom.studies.geometry.parameter_gradient_penalty(model, "cross_entropy", x, y)
            + 0.05 * wherefrom.studies.geometry.input_gradient_penalty(model, "cross_entropy", x, y)
        )
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients):
                parameter -= recipe.lr * (gradient + recipe.weight_decay * parameter)
    for trained in found:
        for one, other in zip(trained.parameters(), model.parameters()):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_an_example_of_weight_zero_has_no_part_in_training():
    images = load("digits", None, 30, 10)
    x, y = images.train[0].double(), images.train[1]
    other = x.clone()
    other[4] = 1 - other[4]
    weights = torch.ones(1, 30, dtype=torch.float64)
    weights[0, 4] = 0
    recipe = replicas.Recipe(
        "both", parameter_penalty=0.1, input_penalty=0.05, batch_size=10, steps=6, decay=True
    )
    one, two = (replicas.train_replicas(recipe, "mlp", (data, y), weights, 3)[0] for data in (x, other))
    for first, second in zip(one.parameters(), two.parameters()):
        assert torch.equal(first, second)


def test_the_measures_are_those_of_the_dense_matrices():
    images = load("digits", None, 25, 10)
    model = network("mlp", 8, 0, hidden=4).double()
    found = flatness(model, images)
    x, y = images.train[0].double(), images.train[1]
    values = list(model.parameters())
    sizes = [value.numel() for value in values]

    def outputs(theta):
        parts = [part.view_as(value) for part, value in zip(theta.split(sizes), values)]
        return torch.tanh(x.flatten(1) @ parts[0].T + parts[1]) @ parts[2].T + parts[3]

    theta = torch.cat([value.detach().flatten() for value in values])
    hessian = torch.func.hessian(lambda t: cross_entropy(outputs(t), y))(theta)
    jacobian = torch.func.jacrev(outputs)(theta)
    p = outputs(theta).softmax(1)
    softmax = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    ggn = torch.einsum("bcp,bcd,bdq->pq", jacobian, softmax, jacobian) / len(x)
    eigenvalues = torch.linalg.eigvalsh(ggn)
    dimension = float((eigenvalues / (eigenvalues + DAMPING)).sum())
    inputs = torch.func.vmap(torch.func.jacrev(lambda one: model(one[None])[0]))(x).detach()
    assert abs(found["trace"] - float(hessian.trace())) < 5 * found["trace_error"] + 1e-8
    assert abs(found["largest"] - float(torch.linalg.eigvalsh(hessian)[-1])) <= found["largest_error"] + 1e-8
    assert abs(found["dimension"] - dimension) < 5 * found["dimension_error"] + 0.02 * dimension
    assert found["complexity"] == pytest.approx(float(inputs.square().sum() / len(x)))


def test_rank_correlations():
    generator = np.random.default_rng(0)
    a = generator.normal(size=40)
    b = a + generator.normal(size=40)
    found = rank_correlation(a, b)
    assert found.rho == pytest.approx(stats.spearmanr(a, b).statistic)
    assert found.low < found.rho < found.high
    # What groups differ by is left out: within each, the order is reversed.
    groups = np.repeat([0, 1], 20)
    assert rank_correlation(a, -a + 100 * groups, groups).rho == pytest.approx(-1)
    assert np.isnan(rank_correlation(np.ones(5), a[:5]).rho)


def test_rows_of_other_settings_are_refused_and_a_cut_line_is_dropped(tmp_path):
    file = RowFile(tmp_path / "rows.jsonl", {"train": 3})
    file.add({"key": "a", "value": 1})
    file.add({"key": "b", "value": 2})
    file.path.write_text(file.path.read_text()[:-4])
    assert list(RowFile(file.path, {"train": 3}).rows) == ["a"]
    with pytest.raises(DataError, match="--out"):
        RowFile(file.path, {"train": 4})


def test_a_start_that_has_no_minimum_near_is_reported(monkeypatch):
    """Where the Hessian is not positive definite the row says so, and has no agreement."""

    def refuse(*args):
        raise wherefrom.errors.NotPositiveDefiniteError("no minimum", eigenvalue=-1.0, damping=1.5)

    images = load("digits", None, 30, 20)
    data = (images.train[0].double(), images.train[1])
    model = network("mlp", 8, 0, hidden=3).double().eval()
    monkeypatch.setattr(agreement, "_influence", refuse)
    found = agreement._retrain_from_minimum(model, replicas.Recipe("plain"), data, data, {"single": [[0]]})
    assert found["refused"] == "no minimum" and "single" not in found
    row = {
        "kind": "mlp",
        "recipe_name": "plain",
        "seed": 0,
        "test_accuracy": 1.0,
        "largest": 1.0,
        "trace": 2.0,
    }
    agreed = {"pearson": 0.5, "spearman": 0.5, "slope": 1.0, "removals": 1}
    (line,) = trust.summarise([{**row, "recipe": {"single": agreed, "group": agreed}, "minimum": found}])
    assert line["refused"] == 1 and np.isnan(line["minimum_single_pearson"][0])
    assert line["recipe_single_pearson"][0] == 0.5


def test_images_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="torchvision"):
        load("fashion_mnist", tmp_path, 10, 10)


def test_mnist_and_fashion_where_they_are(data_folder):
    if data_folder is None:
        pytest.skip("MNIST is not beside the repository")
    images = load("mnist", data_folder, 12, 8)
    assert isinstance(images, ImageSet) and images.side == 14
    assert images.train[0].shape == (12, 1, 14, 14) and float(images.train[0].min()) >= 0
    assert network("cnn", 14, 0)(images.test[0]).shape == (8, 10)
