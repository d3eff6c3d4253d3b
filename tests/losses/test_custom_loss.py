"""Functions as losses: curvature by autograd, and the mistakes users make with them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.losses import CrossEntropy, CustomLoss
from wherefrom.testing.losses import check_curvature, check_differentiation


def coupled(outputs: Tensor, targets: Tensor) -> Tensor:
    """Convex, with a full Hessian."""
    return torch.logsumexp(outputs.flatten(1), 1) + (outputs - targets).flatten(1).pow(4).sum(1)


def saddle(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.sin() * targets).flatten(1).sum(1)


@settings(deadline=None, max_examples=20)
@given(
    shape=st.sampled_from([(3, 1), (3, 4), (3, 2, 2)]),
    case=st.sampled_from([(coupled, True), (saddle, False)]),
    seed=st.integers(0, 10_000),
)
def test_curvature(shape, case, seed):
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(shape, dtype=torch.float64, generator=generator)
    targets = torch.randn(shape, dtype=torch.float64, generator=generator)
    loss = CustomLoss(case[0], convex=case[1])
    loss.validate(outputs, targets)
    assert loss.hessian_blocks(outputs, targets).shape[1] == 1
    check_curvature(loss, outputs, targets)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_every_mode_of_differentiation():
    outputs = torch.randn(3, 4, dtype=torch.float64)
    check_differentiation(CustomLoss(coupled), outputs, torch.randn(3, 4, dtype=torch.float64))


def test_agrees_with_the_closed_form_of_cross_entropy():
    outputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1])
    custom = CustomLoss(lambda f, y: F.cross_entropy(f, y, reduction="none"), name="ce", convex=True)
    closed = CrossEntropy()
    torch.testing.assert_close(
        custom.hessian_blocks(outputs, targets), closed.hessian_blocks(outputs, targets)
    )
    root = custom.hessian_sqrt_blocks(outputs, targets)
    torch.testing.assert_close(root @ root.mT, closed.hessian_blocks(outputs, targets))


def test_few_and_many_vectors_give_the_same_product():
    outputs, targets = torch.randn(2, 3, 3, dtype=torch.float64), torch.zeros(2, 3, 3, dtype=torch.float64)
    vectors = torch.randn(20, 2, 3, 3, dtype=torch.float64)
    loss = CustomLoss(coupled)
    many = loss.hessian_apply(vectors, outputs, targets)
    few = torch.stack([loss.hessian_apply(v, outputs, targets) for v in vectors])
    torch.testing.assert_close(many, few)


def test_float32_rounding_does_not_make_a_convex_loss_indefinite():
    outputs, targets = 5 * torch.randn(50, 6), torch.randint(6, (50,))
    loss = CustomLoss(lambda f, y: F.cross_entropy(f, y, reduction="none"), convex=True)
    root = loss.hessian_sqrt_blocks(outputs, targets)
    torch.testing.assert_close(root @ root.mT, loss.hessian_blocks(outputs, targets), rtol=1e-3, atol=1e-4)


def test_targets_of_any_kind_and_functions_with_control_flow():
    def function(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        losses = (outputs - targets["y"]).square().sum(1)
        return losses if float(losses.detach().max()) > -1 else -losses

    outputs = torch.randn(3, 2, dtype=torch.float64)
    targets = {"y": torch.zeros(3, 2, dtype=torch.float64)}
    loss = CustomLoss(function)
    eye = torch.eye(2, dtype=torch.float64).expand(3, 1, 2, 2)
    torch.testing.assert_close(loss.hessian_blocks(outputs, targets), 2 * eye)


def test_a_piecewise_linear_loss_has_no_curvature():
    outputs, targets = torch.randn(3, 2), torch.zeros(3, 2)
    loss = CustomLoss(lambda f, y: (f - y).abs().sum(1))
    loss.validate(outputs, targets)
    assert (loss.hessian_blocks(outputs, targets) == 0).all()
    assert (loss.hessian_sqrt_blocks(outputs, targets) == 0).all()
    assert (loss.hessian_apply(torch.ones_like(outputs), outputs, targets) == 0).all()


def test_no_square_root_of_an_indefinite_hessian():
    outputs, targets = torch.full((2, 2), 1.0), torch.ones(2, 2)
    with pytest.raises(UnsupportedError, match=r"for example 0 of the batch has eigenvalue -0\.841"):
        CustomLoss(saddle).hessian_sqrt_blocks(outputs, targets)
    with pytest.raises(UnsupportedError, match="although it was declared convex=True"):
        CustomLoss(saddle, convex=True).hessian_sqrt_blocks(outputs, targets)


def test_not_a_likelihood():
    with pytest.raises(UnsupportedError, match="'coupled' is not the negative logarithm"):
        CustomLoss(coupled).fisher_sqrt_blocks(torch.zeros(1, 1), torch.zeros(1, 1))


def test_a_module_can_be_a_loss():
    class Squares(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().sum(1)

    loss = CustomLoss(Squares())
    assert loss.name == "Squares"
    loss.validate(torch.zeros(2, 2), torch.ones(2, 2))


def test_names_and_settings():
    named = CustomLoss(coupled, name="coupled δ=1", convex=True).settings()
    assert named["name"] == "coupled δ=1" and named["convex"] is True
    assert named["function"].endswith("test_custom_loss.coupled") and len(named["source_sha256"]) == 64
    assert named["source_sha256"] != CustomLoss(saddle).settings()["source_sha256"]
    made_at_run_time: dict[str, object] = {}
    exec("def f(o, t): return o.sum(1)", made_at_run_time)
    assert CustomLoss(made_at_run_time["f"], name="f").settings()["source_sha256"] is None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda f, y: (f - y).square().mean(), r"returned a scalar.*shape \(3,\).*reduction='none'"),
        (lambda f, y: (f - y).square(), r"returned shape \(3, 2\).*shape \(3,\).*flatten\(1\)"),
        (lambda f, y: (f - y).square().sum(1, keepdim=True), r"returned shape \(3, 1\)"),
        (lambda f, y: 1.0, "returned a float"),
        (lambda f, y: (f.argmax(1) != 0).float(), "does not depend on the outputs by differentiable"),
        (lambda f, y: (f.detach() - y).square().sum(1), r"Remove detach\(\)"),
    ],
)
def test_functions_that_are_no_loss_per_example_are_refused(function, message):
    with pytest.raises(InputError, match=message):
        CustomLoss(function).validate(torch.zeros(3, 2), torch.zeros(3, 2))


def test_functionals_that_return_a_mean_name_the_built_in_loss():
    with pytest.raises(InputError, match="loss='cross_entropy'"):
        CustomLoss(F.cross_entropy).validate(torch.zeros(3, 2), torch.tensor([0, 1, 0]))
    with pytest.raises(InputError, match="loss='binary_cross_entropy'"):
        CustomLoss(F.binary_cross_entropy_with_logits).validate(torch.zeros(3), torch.zeros(3))
    with pytest.raises(InputError, match="SquaredError"):
        CustomLoss(F.mse_loss).validate(torch.zeros(3), torch.zeros(3))


def test_numbers_that_are_not_finite_are_refused():
    loss = CustomLoss(lambda f, y: (f - y[0]["y"]).square().sum(1))
    with pytest.raises(NonFiniteError, match=r"targets contain nan at position \(1, 0\)"):
        loss.validate(torch.zeros(2, 1), [{"y": torch.tensor([[0.0], [float("nan")]])}])
    with pytest.raises(NonFiniteError, match=r"losses of '<lambda>' contain -inf at position \(0,\)"):
        CustomLoss(lambda f, y: f.sum(1).log()).validate(torch.tensor([[0.0], [1.0]]), torch.zeros(2))


def test_only_callables_are_losses():
    with pytest.raises(InputError, match="function is of type int"):
        CustomLoss(3)
