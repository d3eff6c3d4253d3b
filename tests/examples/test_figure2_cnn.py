"""The network's figure, small: scores against a dense Hessian, predictions against training that goes on."""

import figure2_cnn
import mnist
import network_attribution
import numpy as np
import pytest
import small_cnn
import torch
from mnist import DataError
from network_attribution import network_scores
from torch.func import functional_call, grad, hessian

from wherefrom.errors import NotPositiveDefiniteError

SMALL = figure2_cnn.Settings(
    width=2,
    epochs=20,
    batch=25,
    rtol=1e-5,
    removals=12,
    retraining=small_cnn.Steps(rate=0.05, momentum=0.5, batch=50, count=10, seed=1),
    checked=4,
)


@pytest.fixture
def larger(splits):
    """100 + 100 digits, each pixel tripled so that the network's convolutions fit in."""

    def enlarge(split):
        side = round(split.x.shape[1] ** 0.5)
        images = split.x.reshape(-1, side, side).repeat(3, axis=1).repeat(3, axis=2)
        return mnist.split_of(images.reshape(len(images), -1), split.y)

    train, test = splits
    return enlarge(train.take(slice(0, 100))), enlarge(test.take(slice(0, 100)))


def dense_scores(model, x, y, query, damping):
    """Scores from a dense Hessian in float64."""
    model = model.double()
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    decay = torch.cat(
        [
            torch.full((p.numel(),), figure2_cnn.ALPHA if small_cnn.is_weight(name) else 0.0)
            for name, p in model.named_parameters()
        ]
    ).double()

    def loss(theta, images, labels):
        parts = torch.split(theta, [shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes)}
        return torch.nn.functional.cross_entropy(functional_call(model, values, (images,)), labels)

    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    curvature = hessian(loss)(theta, x.double(), y) + torch.diag(decay + damping)
    gradients = torch.stack([grad(loss)(theta, x[i : i + 1].double(), y[i : i + 1]) for i in range(len(y))])
    return (gradients @ torch.linalg.solve(curvature, grad(loss)(theta, query[0].double(), query[1]))).numpy()


@pytest.mark.slow
def test_scores_and_retraining(larger, monkeypatch):
    # So small a network is far from a minimum; what damping λ predicts is what a time of about 1/λ does.
    monkeypatch.setattr(figure2_cnn, "DAMPING", 1.0)
    train, test = larger
    trained = []
    real = small_cnn.train
    monkeypatch.setattr(small_cnn, "train", lambda *a, **k: trained.append(real(*a, **k)) or trained[-1])
    result, points = figure2_cnn.experiment(train, test, None, SMALL)
    x, y = figure2_cnn.images(train)
    query_x, query_y = figure2_cnn.images(test)
    row = result["query"]["row"]
    asked = query_x[row : row + 1], query_y[row : row + 1]
    expected = dense_scores(trained[0], x, y, asked, 1.0) / len(y)
    largest = np.argsort(-np.abs(expected), kind="stable")[:12]
    np.testing.assert_allclose(
        np.sort(points["hessian"]), np.sort(expected[largest]), rtol=2e-3, atol=1e-4 * abs(expected).max()
    )
    assert result["hessian"]["converged"] and result["ggn"]["converged"]
    assert result["p"] == 312 and result["retraining"]["removals"] == 12
    assert len(result["retraining"]["at_times"]["pearson_hessian"]) == 10
    assert result["hessian"]["pearson"] > 0.9
    assert result["another_order"]["removals"] == 4 and result["another_order"]["pearson"] > 0.9
    assert len(figure2_cnn.draw(result, points).axes) == 3
    rows = figure2_cnn.comparison(result)
    assert [bool(row.paper) for row in rows] == [True, False] and rows[0].figure == "2 right"


def test_a_query_that_is_read_correctly_is_refused(larger):
    train, test = larger
    settings = figure2_cnn.Settings(width=2, epochs=1)
    with pytest.raises(DataError, match="--query 100000"):
        figure2_cnn.experiment(train, test, 100_000, settings)


@pytest.mark.slow
def test_damping_is_raised_where_the_hessian_needs_it(larger, monkeypatch):
    """An untrained network: the Hessian is indefinite, and the damping in use is told."""
    train, test = larger
    problem = small_cnn.Problem(*figure2_cnn.images(train.take(slice(0, 30))), figure2_cnn.ALPHA)
    model = small_cnn.network(0, width=2)
    asked = figure2_cnn.images(test.take(slice(0, 1)))
    values, notes = network_scores(model, problem, asked, curvature="hessian", damping=1e-5, rtol=1e-3)
    assert notes["smallest_curvature"] < 0 and notes["damping"] > -notes["smallest_curvature"]
    assert values.shape == (30,) and np.isfinite(values).all()
    monkeypatch.setattr(network_attribution, "ATTEMPTS", 1)
    with pytest.raises(NotPositiveDefiniteError):
        network_scores(model, problem, asked, curvature="hessian", damping=1e-5, rtol=1e-3)
