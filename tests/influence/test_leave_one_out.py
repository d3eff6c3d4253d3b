"""Single removals in closed form: against Newton's step on dense matrices, and against retraining."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.support import Plain, as_a_user, digits, half_square, seeded, small_mlp, softmax_regression
from wherefrom import Influence
from wherefrom.errors import InputError, UnsupportedError

CHOSEN = [3, 7, 20, 41]


def fit(plain: Plain, loss: str = "cross_entropy", **options) -> Influence:
    options = {"weight_decay": float(plain.decay[0]), "damping": 0.0, **options}
    return Influence(plain.model, (plain.x, plain.y), loss=loss, progress=False, **options).fit()


def queries(count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    return digits(count, start=300, classes=3, pool=2)


def weights(plain: Plain, i: int, reduction: str) -> torch.Tensor:
    kept = torch.full((plain.n,), 1 / (plain.n - 1 if reduction == "mean" else plain.n), dtype=torch.float64)
    kept[i] = 0
    return kept


def newton(plain: Plain, i: int, reduction: str) -> torch.Tensor:
    """`Δθ` by one Newton step on the dense objective without example `i`."""
    kept = weights(plain, i, reduction)
    leaf = plain.theta.clone().requires_grad_()
    (after,) = torch.autograd.grad(plain.objective(leaf, kept), leaf)
    (before,) = torch.autograd.grad(plain.objective(leaf), leaf)
    return -torch.linalg.solve(plain.hessian(weights=kept), after - before)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ridge_regression_is_exact(reduction):
    x, y = digits(50, classes=3, pool=2)
    model = seeded(lambda: nn.Linear(16, 2))
    targets = torch.stack([y.double(), (y == 1).double()], 1)
    plain = Plain(model, half_square, (x, targets), 0.05).trained()
    data = (queries()[0], torch.zeros(7, 2, dtype=torch.float64))
    made = fit(plain, "squared_error").leave_one_out(data, reduction=reduction)
    rows = plain.gradients(data)
    for i in CHOSEN:
        moved = plain.minimise(weights(plain, i, reduction)) - plain.theta
        torch.testing.assert_close(made.values[:, i], rows @ moved, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("solver", ["exact", "cg"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_softmax_regression_takes_newtons_step_and_comes_closer_to_retraining(reduction, solver):
    plain = softmax_regression(80, classes=3, decay=0.02)
    made = fit(plain, solver=solver).leave_one_out(queries(), indices=CHOSEN, reduction=reduction)
    rows = plain.gradients(queries())
    expected = torch.stack([rows @ newton(plain, i, reduction) for i in CHOSEN], 1)
    torch.testing.assert_close(made.values, expected, rtol=1e-4, atol=1e-7)
    actual = []
    for i in CHOSEN:
        theta = plain.minimise(weights(plain, i, reduction))
        actual.append(plain.losses(theta, queries()) - plain.losses(plain.theta, queries()))
    truth = torch.stack(actual, 1)
    assert (made.values - truth).norm() < 0.5 * (made.first - truth).norm()
    assert made.index.tolist() == CHOSEN and (made.leverage > 0).all() and (made.leverage < 1).all()


def test_first_order_is_that_of_the_scores():
    plain = softmax_regression(80, classes=3, decay=0.02)
    influence = fit(plain)
    scores = influence.scores(queries()).values
    kept = influence.leave_one_out(queries(), reduction="sum")
    torch.testing.assert_close(kept.first, scores / plain.n)


def test_one_output_divides_by_one_minus_the_leverage():
    x, y = digits(60, classes=2, pool=2)
    plain = Plain(seeded(lambda: nn.Linear(16, 1)), half_square, (x, y.double()[:, None]), 0.1).trained()
    made = fit(plain, "squared_error").leave_one_out((x[:4], y[:4].double()[:, None]), reduction="sum")
    wide = torch.cat([x, torch.ones(60, 1, dtype=torch.float64)], 1)
    hat = (wide @ torch.linalg.solve(plain.hessian(), wide.T)).diagonal() / plain.n
    torch.testing.assert_close(made.leverage, hat)
    torch.testing.assert_close(made.values, made.first / (1 - hat))


def test_a_network_takes_the_gauss_newton_matrix_that_is_left():
    plain = small_mlp(50, decay=0.02)
    made = fit(plain, curvature="ggn").leave_one_out(queries(), indices=[5], reduction="sum")
    rest = Plain(plain.model, plain.loss, (plain.x, plain.y), plain.decay)
    alone = Plain(plain.model, plain.loss, (plain.x[5:6], plain.y[5:6]), 0.0)
    left = rest.ggn() - alone.ggn() / plain.n
    moved = torch.linalg.solve(left, plain.gradients()[5]) / plain.n
    torch.testing.assert_close(made.values[:, 0], plain.gradients(queries()) @ moved, rtol=1e-7, atol=1e-11)


def test_what_has_no_closed_form_is_refused():
    network = small_mlp(40, decay=0.05)
    with pytest.raises(UnsupportedError, match="Hessian of a network has no closed form"):
        fit(network, curvature="hessian").leave_one_out(queries())
    with pytest.raises(UnsupportedError, match="treats layers apart"):
        fit(network, solver="ekfac", damping="auto").leave_one_out(queries())
    influence = fit(softmax_regression(30, classes=3))
    with pytest.raises(InputError, match="30 is outside the training set"):
        influence.leave_one_out(queries(), indices=[30])
    with as_a_user(), pytest.raises(InputError, match="reduction='max'"):
        influence.leave_one_out(queries(), reduction="max")
