"""Every signal against the dense formula in float64, for exact and approximate solvers."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.labels.label_problem import ALPHA, Flipped, flipped_digits, signed_digits
from wherefrom import CG, EKFAC, BinaryCrossEntropy, CrossEntropy, Exact, Logistic, SmoothHinge
from wherefrom.studies.labels import label_signals
from wherefrom.studies.labels.left_out import left_out_along_gradient
from wherefrom.testing import DenseProblem


@functools.lru_cache
def problem(hidden: int = 0) -> Flipped:
    return flipped_digits(hidden=hidden)


def dense(given: Flipped, y: Tensor | None = None) -> DenseProblem:
    labels = given.y if y is None else y
    return DenseProblem(
        given.model, lambda model: model(given.x), lambda f: F.cross_entropy(f, labels, reduction="none")
    )


def validation_gradient(given: Flipped) -> Tensor:
    x, y = given.validation
    return (
        DenseProblem(given.model, lambda model: model(x), lambda f: F.cross_entropy(f, y, reduction="none"))
        .gradients()
        .mean(0)
    )


def inverse(given: Flipped, curvature: Tensor) -> Tensor:
    return torch.linalg.inv(curvature + ALPHA * torch.eye(len(curvature), dtype=torch.float64))


@pytest.mark.parametrize("solver", [Exact(), CG(rtol=1e-11)], ids=["exact", "cg"])
@pytest.mark.parametrize("hidden", [0, 5], ids=["softmax", "mlp"])
def test_signals_equal_the_dense_formulas(hidden, solver):
    given = problem(hidden)
    n = len(given.y)
    audit = label_signals(given.influence(solver=solver, damping=0.0), given.validation)
    full = dense(given)
    inverted = inverse(given, full.ggn())
    g = full.gradients()
    s = inverted @ validation_gradient(given)
    own = torch.einsum("ip,pq,iq->i", g, inverted, g)
    p = full.outputs(full.theta).softmax(1)
    p_y = p.gather(1, given.y[:, None])[:, 0]
    other = p.scatter(1, given.y[:, None], -1.0).max(1).values
    change = torch.stack(
        [-(dense(given, torch.full_like(given.y, c)).gradients() - g) @ s / n for c in range(3)], dim=1
    )
    best = change.scatter(1, given.y[:, None], torch.inf).min(1).values
    expected = {
        "loss": -p_y.log(),
        "margin": (1 + other - p_y) / 2,
        "self_influence": own,
        "harm": -(g @ s) / n,
        "relative_harm": -(g @ s) / n / own.sqrt(),
        "relabel": -best,
    }
    for name, values in expected.items():
        torch.testing.assert_close(audit.signals[name], values, rtol=1e-7, atol=1e-12, msg=name)
    torch.testing.assert_close(audit.relabel_change, change, rtol=1e-7, atol=1e-12)
    torch.testing.assert_close(audit.confidence, p, rtol=1e-9, atol=1e-12)
    assert torch.equal(audit.given, given.y) and torch.equal(audit.predicted, p.argmax(1))
    assert audit.converged


def test_left_out_outputs_are_the_newton_step_without_the_example():
    """`K` and the removed curvature written out: `θ̂_{−i} = θ̂ + (H − ∇²ℓ_i/n)⁻¹ g_i/n`."""
    given = problem()
    n = len(given.y)
    audit = label_signals(given.influence(), left_out="exact")
    full = dense(given)
    j, curved, g = full.jacobian(), full.output_hessians(), full.gradients()
    h = full.ggn() + ALPHA * torch.eye(full.p, dtype=torch.float64)
    for i in (0, 7, 31):
        left = h - j[i].T @ curved[i] @ j[i] / n
        moved = full.outputs(full.theta + torch.linalg.solve(left, g[i]) / n)[i]
        torch.testing.assert_close(audit.left_out_confidence[i], moved.softmax(0), rtol=1e-8, atol=1e-10)
    assert audit.settings["left_out_held"] == 0


@pytest.mark.parametrize("loss", [Logistic(), SmoothHinge(0.5)], ids=["logistic", "hinge"])
def test_with_one_output_the_cheap_left_out_prediction_is_the_exact_one(loss):
    given = signed_digits(loss)
    fitted = given.influence()
    cheap, exact = (label_signals(fitted, left_out=kind) for kind in ("gradient", "exact"))
    torch.testing.assert_close(cheap.signals["left_out_loss"], exact.signals["left_out_loss"])


def test_with_two_classes_too():
    fitted = flipped_digits(classes=2).influence()
    cheap, exact = (label_signals(fitted, left_out=kind) for kind in ("gradient", "exact"))
    torch.testing.assert_close(cheap.left_out_confidence, exact.left_out_confidence)


def test_without_a_whole_curvature_no_leverage_is_taken_off():
    """EK-FAC may name leverages above one: the step is then that of the example's own curvature at most."""
    loss = CrossEntropy()
    outputs = torch.tensor([[2.0, -1.0, 0.5]], dtype=torch.float64)
    targets, huge = torch.tensor([1]), torch.tensor([1e6], dtype=torch.float64)
    u = outputs.softmax(1) - F.one_hot(targets, 3)
    bounded = left_out_along_gradient(loss, outputs, targets, u, huge, 10, whole=False)
    held = left_out_along_gradient(loss, outputs, targets, u, huge, 10)
    along = (u * loss.hessian_apply(u[None], outputs, targets)[0]).sum() / u.square().sum()
    torch.testing.assert_close(bounded.outputs - outputs, u / along, rtol=1e-3, atol=0.0)
    assert (bounded.held, held.held) == (0, 1)


def test_binary_losses_agree_with_one_another():
    """The logistic loss of −1 and +1 and the binary cross-entropy of 0 and 1 are one loss, spelt twice."""
    signed = signed_digits(Logistic())
    same = Flipped(
        **{
            **vars(signed),
            "y": (signed.y + 1) / 2,
            "y_validation": (signed.y_validation + 1) / 2,
            "loss": BinaryCrossEntropy(),
        }
    )
    a, b = (label_signals(one.influence(), one.validation) for one in (signed, same))
    for name in a.signals:
        torch.testing.assert_close(a.signals[name], b.signals[name], rtol=1e-8, atol=1e-12, msg=name)
    assert a.class_names == ("-1", "1") and b.class_names == ("0", "1")
    torch.testing.assert_close(a.confidence[:, 1], torch.sigmoid(signed.model(signed.x)).detach())


def test_a_margin_without_probabilities_is_that_of_the_scores():
    given = signed_digits(SmoothHinge(0.5))
    audit = label_signals(given.influence(), given.validation)
    torch.testing.assert_close(audit.signals["margin"], -(given.y * given.model(given.x)).detach())
    assert audit.settings["probabilities"] is False


def test_a_loss_of_ones_own_on_class_scores():
    def plain(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none")

    given = problem()
    own = label_signals(given.influence(loss=plain, curvature="hessian", damping=0.0), given.validation)
    known = label_signals(given.influence(damping=0.0), given.validation)
    for name in ("loss", "left_out_loss", "self_influence", "harm", "relabel"):
        torch.testing.assert_close(own.signals[name], known.signals[name], rtol=1e-7, atol=1e-11, msg=name)
    assert own.settings["probabilities"] is False


def test_ekfac_ranks_much_like_the_full_curvature():
    given = problem(5)
    full = label_signals(given.influence(solver=Exact(), damping=0.02), given.validation)
    layers = label_signals(given.influence(solver=EKFAC()), given.validation)
    assert set(full.signals) == set(layers.signals)
    for name in ("self_influence", "harm", "left_out_loss"):
        both = torch.stack([full.signals[name], layers.signals[name]])
        assert float(torch.corrcoef(both.argsort(1).argsort(1).double())[0, 1]) > 0.8, name


def test_a_subset_has_the_signals_of_the_whole():
    given = problem()
    fitted = given.influence()
    every = label_signals(fitted, given.validation)
    some = label_signals(fitted, given.validation, indices=[5, 2])
    assert some.index.tolist() == [5, 2] and len(some) == 2 and some.n == len(given.y)
    for name, values in some.signals.items():
        torch.testing.assert_close(values, every.signals[name][[5, 2]])


def test_expected_errors_cover_a_loose_solver():
    given = problem()
    exact = label_signals(given.influence(solver=Exact()), given.validation)
    loose = label_signals(given.influence(solver=CG(rtol=1e-3, stop="residual")), given.validation)
    for name in ("self_influence", "harm", "relabel"):
        error = (loose.signals[name] - exact.signals[name]).norm()
        assert bool(torch.isfinite(loose.errors[name]).all())
        assert float(error) < 10 * float(loose.errors[name].norm()) + 1e-12, name
