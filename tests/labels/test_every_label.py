"""Every relabelling at once: against one relabelling at a time, dense gradients, and retraining."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support import Plain, digits, half_square, logistic, seeded, small_mlp, softmax_regression
from wherefrom import Influence
from wherefrom.errors import InputError, UnsupportedError


def fit(plain: Plain, loss: str = "cross_entropy", **options) -> Influence:
    options = {"weight_decay": float(plain.decay[0]), "damping": 0.01, **options}
    return Influence(plain.model, (plain.x, plain.y), loss=loss, progress=False, **options).fit()


def queries(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return digits(count, start=300, classes=3, pool=2)


@pytest.mark.parametrize("make", [lambda: softmax_regression(50, classes=3), lambda: small_mlp(40)])
def test_each_entry_is_that_of_one_relabelling(make):
    plain = make()
    influence = fit(plain, curvature="ggn")
    every = influence.relabel_scores(queries())
    assert every.values.shape == (4, plain.n, 3) and every.given.tolist() == plain.y.tolist()
    dense = plain.ggn() + 0.01 * torch.eye(plain.p, dtype=torch.float64)
    solved = torch.linalg.solve(dense, plain.gradients(queries()).T)
    for label in range(3):
        there = Plain(plain.model, plain.loss, (plain.x, torch.full_like(plain.y, label)), plain.decay)
        expected = -((there.gradients() - plain.gradients()) @ solved).T / plain.n
        torch.testing.assert_close(every.values[:, :, label], expected, rtol=1e-7, atol=1e-10)
    one = influence.relabel([7], 2).change(queries(), order="first")
    torch.testing.assert_close(every.values[:, 7, 2], one.values)
    assert (every.values.gather(2, every.given.expand(4, -1)[:, :, None]).abs() < 1e-12).all()


def test_labels_of_a_single_output():
    x, y = digits(40, classes=2, pool=2)
    plain = Plain(seeded(lambda: nn.Linear(16, 1)), logistic, (x, 2.0 * y - 1), 0.05).trained()
    every = fit(plain, "logistic", damping=0.0).relabel_scores((x[:3], 2.0 * y[:3] - 1))
    assert every.names == ("-1", "1")
    moved = plain.y.clone()
    moved[5] = -moved[5]
    other = Plain(plain.model, logistic, (x, moved), 0.05)
    theta = other.minimise(start=plain.theta)
    actual = plain.losses(theta)[:3] - plain.losses(plain.theta)[:3]
    predicted = every.values[:, 5, 1 - int(every.given[5])]
    assert torch.corrcoef(torch.stack([predicted, actual]))[0, 1] > 0.99


def test_the_relabelling_that_helps_most():
    every = fit(softmax_regression(50, classes=3)).relabel_scores(queries())
    index, label, change = every.largest(1, k=1)[0]
    assert change == float(every.values[1].min()) < 0
    assert float(every.values[1, index, int(label)]) == change
    assert every.largest(1, k=2, raising=True)[0][2] == float(every.values[1].max())
    with pytest.raises(InputError, match="query=4"):
        every.largest(4)
    with pytest.raises(InputError, match="k=0"):
        every.largest(0, 0)


def test_a_loss_without_classes_is_refused():
    x, _ = digits(20, pool=2)
    plain = Plain(seeded(lambda: nn.Linear(16, 2)), half_square, (x, torch.ones(20, 2).double()), 0.1)
    with pytest.raises(UnsupportedError, match="has no classes"):
        fit(plain, "squared_error").relabel_scores((x, torch.ones(20, 2)))
