"""Cross-entropy: equal to torch's, its curvature to autograd's; the rest refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.losses import CrossEntropy, _softmax
from wherefrom.losses._softmax import softmax_curvature, softmax_curvature_sqrt
from wherefrom.testing.losses import block_diagonal, check_curvature, check_differentiation, check_fisher

SHAPES = ["classes", "tokens_last", "tokens_torch", "image"]


def make_case(layout: str, soft: bool, seed: int, b: int = 4, c: int = 5) -> tuple[Tensor, Tensor, int]:
    generator = torch.Generator().manual_seed(seed)
    shape = {
        "classes": (b, c),
        "tokens_last": (b, 3, c),
        "tokens_torch": (b, c, 3),
        "image": (b, c, 2, 3),
    }[layout]
    class_dim = len(shape) - 1 if layout in ("classes", "tokens_last") else 1
    outputs = 2 * torch.randn(shape, dtype=torch.float64, generator=generator)
    if soft:
        return (
            outputs,
            torch.rand(shape, dtype=torch.float64, generator=generator).softmax(class_dim),
            class_dim,
        )
    sizes = shape[:class_dim] + shape[class_dim + 1 :]
    return outputs, torch.randint(c, sizes, generator=generator), class_dim


def by_torch(
    outputs: Tensor,
    targets: Tensor,
    class_dim: int,
    reduction: str,
    ignore_index: int = -100,
    **options: Tensor | float | None,
) -> Tensor:
    """Per-example losses from torch's own per-position ones."""
    soft = targets.is_floating_point()
    outputs = outputs.movedim(class_dim, 1)
    targets = targets.movedim(class_dim, 1) if soft else targets
    losses = F.cross_entropy(outputs, targets, reduction="none", ignore_index=ignore_index, **options)
    losses = losses.reshape(len(losses), -1)
    if reduction == "sum":
        return losses.sum(1)
    kept = torch.ones_like(losses) if soft else (targets != ignore_index).double().reshape(losses.shape)
    return losses.sum(1) / kept.sum(1).clamp(min=1)


options = {
    "layout": st.sampled_from(SHAPES),
    "soft": st.booleans(),
    "weighted": st.booleans(),
    "smoothing": st.sampled_from([0.0, 0.1, 1.0]),
    "reduction": st.sampled_from(["mean", "sum"]),
    "ignore": st.sampled_from([None, -100, 2]),
    "seed": st.integers(0, 10_000),
}


@settings(deadline=None, max_examples=60)
@given(**options)
def test_equals_torch_and_its_curvature_autograd(layout, soft, weighted, smoothing, reduction, ignore, seed):
    outputs, targets, class_dim = make_case(layout, soft, seed)
    if soft and ignore == 2:
        ignore = None
    if not soft and ignore is not None:
        targets = targets.clone()
        targets.view(len(targets), -1)[0] = ignore  # a whole example
        targets.view(len(targets), -1)[1, 0] = ignore
    weights = torch.rand(5, dtype=torch.float64) if weighted else None
    given_dim = class_dim if soft and layout != "classes" else None
    loss = CrossEntropy(weights, smoothing, ignore, given_dim, reduction)
    loss.validate(outputs, targets)
    expected = by_torch(
        outputs,
        targets,
        class_dim,
        reduction,
        -100 if ignore is None else ignore,
        weight=weights,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss(outputs, targets), expected, rtol=1e-12, atol=1e-13)
    check_curvature(loss, outputs, targets)


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"class_weights": [1.0, 0.0, 2.0, 0.5, 3.0], "label_smoothing": 0.2}]
)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_every_mode_of_differentiation(layout, soft, options):
    outputs, targets, class_dim = make_case(layout, soft, seed=1)
    if not soft:
        targets.view(len(targets), -1)[0, 0] = -100
    check_differentiation(CrossEntropy(class_dim=class_dim, **options), outputs, targets)


def test_softmax_curvature_has_zero_row_sums_and_ignored_tokens_none():
    outputs, targets, _ = make_case("tokens_last", False, seed=2)
    targets[1, 2] = -100
    blocks = CrossEntropy().hessian_blocks(outputs, targets)
    assert blocks.sum(-1).abs().max() < 1e-15
    assert (blocks[1, 2] == 0).all()
    assert (blocks[1, :2].flatten(1).abs().sum(1) > 0).all()


def test_an_example_of_ignored_tokens_only_has_no_loss_gradient_or_curvature():
    outputs, targets, _ = make_case("tokens_last", False, seed=3)
    targets[0] = -100
    outputs.requires_grad_()
    loss = CrossEntropy()(outputs, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    assert loss[0] == 0 and (gradient[0] == 0).all()
    assert (CrossEntropy().hessian_sqrt_blocks(outputs, targets)[0] == 0).all()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("layout", ["classes", "tokens_last", "tokens_torch"])
def test_fisher_is_the_hessian(layout, reduction):
    outputs, targets, _ = make_case(layout, False, seed=4, b=2, c=4)
    targets.view(2, -1)[0, 0] = -100
    check_fisher(CrossEntropy(token_reduction=reduction), outputs, targets)


@pytest.mark.parametrize("soft", [False, True])
def test_fisher_is_the_exact_expectation_over_classes(soft):
    outputs, targets, _ = make_case("classes", soft, seed=5)
    loss = CrossEntropy()
    p = outputs.softmax(-1)
    expected = torch.zeros(4, 5, 5, dtype=torch.float64)
    for label in range(5):
        leaf = outputs.clone().requires_grad_()
        (u,) = torch.autograd.grad(loss(leaf, torch.full((4,), label)).sum(), leaf)
        expected += p[:, label, None, None] * u[:, :, None] * u[:, None, :]
    root = loss.fisher_sqrt_blocks(outputs, targets)
    torch.testing.assert_close((root @ root.mT)[:, 0], expected)


@pytest.mark.parametrize("options", [{"class_weights": [1.0, 2.0, 1.0, 1.0, 1.0]}, {"label_smoothing": 0.1}])
def test_fisher_of_what_is_no_likelihood_is_refused(options):
    outputs, targets, _ = make_case("classes", False, seed=6)
    loss = CrossEntropy(**options)
    with pytest.raises(UnsupportedError, match="not the negative logarithm of a likelihood"):
        loss.fisher_sqrt_blocks(outputs, targets)
    with pytest.raises(UnsupportedError, match="empirical_fisher"):
        loss.sample_gradients(outputs, targets, torch.full((len(outputs), 1), 0.5))


def test_confident_float32_predictions_keep_relative_accuracy():
    outputs = torch.tensor([[18.0, 0.0, 1.0], [0.5, 30.0, -2.0]])
    targets = torch.tensor([0, 1])
    loss = CrossEntropy()
    exact = loss.hessian_blocks(outputs.double(), targets)
    torch.testing.assert_close(loss.hessian_blocks(outputs, targets).double(), exact, rtol=1e-5, atol=0)
    root = loss.hessian_sqrt_blocks(outputs, targets)
    torch.testing.assert_close((root @ root.mT).double(), exact, rtol=1e-5, atol=0)
    vectors = torch.randn(4, 2, 3)
    product = loss.hessian_apply(vectors, outputs, targets)
    expected = loss.hessian_apply(vectors.double(), outputs.double(), targets)
    torch.testing.assert_close(product.double(), expected, rtol=1e-4, atol=0)


@given(
    classes=st.integers(2, 12),
    spread=st.sampled_from([0.01, 1.0, 10.0, 60.0]),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60, deadline=None)
def test_the_root_of_a_softmax_has_as_many_columns_as_its_rank(classes, spread, seed, dtype):
    logits = spread * torch.randn(3, 1, classes, generator=torch.Generator().manual_seed(seed))
    if classes > 2:
        logits[0, 0, seed % classes] = -torch.inf  # an impossible class
    p = logits.to(dtype).softmax(-1)
    root = softmax_curvature_sqrt(p)
    assert root.shape == (3, 1, classes, classes - 1)
    expected = softmax_curvature(p.double())
    error = (root.double() @ root.double().mT - expected).abs().amax((-1, -2))
    assert bool((error <= 20 * torch.finfo(dtype).eps * expected.amax((-1, -2)) + 1e-36).all())
    # A constant added to all logits changes nothing, column by column.
    assert bool((root.sum(-2).abs() <= 20 * torch.finfo(dtype).eps * root.abs().amax(-2) + 1e-36).all())


def test_masked_logits_stay_finite():
    outputs = torch.tensor([[0.3, -torch.inf, 1.0]], dtype=torch.float64)
    targets = torch.tensor([2])
    loss = CrossEntropy()
    assert torch.isfinite(loss(outputs, targets)).all()
    assert torch.isfinite(loss.hessian_sqrt_blocks(outputs, targets)).all()


def test_apply_on_a_large_vocabulary_needs_no_square_matrix():
    outputs = torch.randn(2, 3, 20_000)
    targets = torch.randint(20_000, (2, 3))
    vectors = torch.randn(2, 2, 3, 20_000)
    product = CrossEntropy().hessian_apply(vectors, outputs, targets)
    p = outputs.double().softmax(-1)
    v = vectors.double()
    torch.testing.assert_close(
        product.double(), p * (v - (p * v).sum(-1, keepdim=True)) / 3, rtol=1e-3, atol=1e-9
    )


def test_integer_labels_of_any_width_are_taken():
    outputs, targets, _ = make_case("classes", False, seed=7)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        CrossEntropy().validate(outputs, targets.to(dtype))
        torch.testing.assert_close(
            CrossEntropy()(outputs, targets.to(dtype)), CrossEntropy()(outputs, targets)
        )


def test_block_view_puts_tokens_in_order():
    outputs, targets, _ = make_case("tokens_torch", False, seed=8)
    blocks = CrossEntropy().to_blocks(outputs, outputs, targets)
    torch.testing.assert_close(blocks, outputs.movedim(1, -1))
    eye = torch.eye(5, dtype=torch.float64).expand(4, 3, 5, 5)
    torch.testing.assert_close(
        block_diagonal(CrossEntropy(), eye, outputs, targets),
        torch.eye(15, dtype=torch.float64).expand(4, 15, 15),
    )


def test_settings_tell_losses_apart():
    plain, weighted = CrossEntropy().settings(), CrossEntropy([1.0, 2.0]).settings()
    assert plain["class_weights"] is None and weighted["class_weights"] == [1.0, 2.0]
    assert plain["loss"] == "cross_entropy"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.5}, r"label_smoothing=1\.5: expected a number in \[0, 1\]"),
        ({"token_reduction": "max"}, "token_reduction is 'max'"),
        ({"class_weights": [1.0, -1.0]}, "class_weights"),
        ({"class_weights": [1.0, float("nan")]}, "class_weights"),
        ({"class_weights": torch.ones(2, 2)}, "class_weights"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CrossEntropy(**options)


refused = {
    "label too large": (
        torch.zeros(3, 4),
        torch.tensor([0, 4, 1]),
        {},
        r"label 4 at position \(1,\).*0 … 3 for the 4 classes",
    ),
    "label negative": (torch.zeros(3, 4), torch.tensor([0, 1, -1]), {}, r"label -1 at position \(2,\)"),
    "ignored but not allowed": (
        torch.zeros(2, 4),
        torch.tensor([0, -100]),
        {"allow_ignored": False},
        r"target \(1,\) is ignored",
    ),
    "float labels": (torch.zeros(3, 4), torch.zeros(3), {}, r"targets.long\(\)"),
    "one-hot integers": (torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.long), {}, "one-hot"),
    "column of labels": (torch.zeros(3, 4), torch.zeros(3, 1, dtype=torch.long), {}, r"squeeze\(-1\)"),
    "other batch": (torch.zeros(3, 4), torch.zeros(2, dtype=torch.long), {}, "one label"),
    "square": (torch.zeros(3, 4, 4), torch.zeros(3, 4, dtype=torch.long), {}, "class_dim=1"),
    "soft tokens": (torch.zeros(3, 4, 5), torch.full((3, 4, 5), 0.2), {}, r"CrossEntropy\(class_dim=-1\)"),
    "classes last, looked for in dimension 1": (
        torch.zeros(3, 4, 5),
        torch.zeros(3, 4, dtype=torch.long),
        {"class_dim": 1},
        r"classes in dimension 2, while .* dimension 1 \(torch\.nn.*CrossEntropy\(class_dim=-1\)",
    ),
    "class_dim": (torch.zeros(3, 4), torch.zeros(3, dtype=torch.long), {"class_dim": 2}, "class_dim is 2"),
    "class_dim of the batch": (
        torch.zeros(3, 4),
        torch.zeros(3, dtype=torch.long),
        {"class_dim": 0},
        "class_dim is 0",
    ),
    "tokens": (
        torch.zeros(3, 2, 4),
        torch.zeros(3, 2, dtype=torch.long),
        {"token_reduction": None},
        "2 positions per example",
    ),
    "weights": (
        torch.zeros(3, 4),
        torch.zeros(3, dtype=torch.long),
        {"class_weights": [1.0, 1.0]},
        "2 values.*4 classes",
    ),
    "one logit": (torch.zeros(3), torch.zeros(3, dtype=torch.long), {}, "binary_cross_entropy"),
    "one class": (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), {}, "1 class"),
    "integer outputs": (
        torch.zeros(3, 4, dtype=torch.long),
        torch.zeros(3, dtype=torch.long),
        {},
        "floating-point",
    ),
    "negative probability": (
        torch.zeros(1, 2),
        torch.tensor([[1.5, -0.5]]),
        {},
        r"label -0.5 at position \(0, 0, 1\)",
    ),
    "unnormalised": (torch.zeros(1, 2), torch.tensor([[1.5, 0.5]]), {}, r"\(0, 0\) sum to 2"),
    "ignore_index with soft targets": (
        torch.zeros(1, 2),
        torch.tensor([[0.5, 0.5]]),
        {"ignore_index": 1},
        "no meaning for class probabilities",
    ),
}


@pytest.mark.parametrize("case", refused)
def test_bad_targets_are_refused(case):
    outputs, targets, options, message = refused[case]
    with pytest.raises(InputError, match=message):
        CrossEntropy(**options).validate(outputs, targets)


def test_targets_that_are_no_tensor_or_not_finite_are_refused():
    with pytest.raises(InputError, match="type list"):
        CrossEntropy().validate(torch.zeros(2, 3), [0, 1])
    with pytest.raises(NonFiniteError, match=r"nan at position \(0, 0, 1\)"):
        CrossEntropy().validate(torch.zeros(1, 2), torch.tensor([[0.5, float("nan")]]))


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64)
    targets, uniforms = torch.zeros(7, 3, dtype=torch.long), torch.rand(7, 3, generator=generator)
    loss = CrossEntropy(class_dim=-1)
    whole = loss.sample_gradients(outputs, targets, uniforms)
    monkeypatch.setattr(_softmax, "_PIECE", 10)
    assert torch.equal(loss.sample_gradients(outputs, targets, uniforms), whole)
