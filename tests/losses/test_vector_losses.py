"""Cosine loss and feature distance: their closed forms against autograd, and what has no derivative
refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from wherefrom.errors import InputError, NonFiniteError, UnsupportedError
from wherefrom.losses import Cosine, CustomLoss, FeatureDistance, SquaredError, resolve_loss
from wherefrom.testing.losses import check_curvature, check_differentiation

SHAPES = [(4, 1), (4, 2), (4, 5), (4, 2, 3)]


def case(shape: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, *shape, dtype=torch.float64, generator=generator))


@settings(deadline=None, max_examples=30)
@given(
    shape=st.sampled_from(SHAPES[1:]), scale=st.sampled_from([0.1, 1.0, 30.0]), seed=st.integers(0, 10_000)
)
def test_cosine(shape, scale, seed):
    outputs, targets = case(shape, seed)
    outputs, loss = scale * outputs, Cosine()
    loss.validate(outputs, targets)
    expected = 1 - F.cosine_similarity(outputs.flatten(1), targets.flatten(1))
    torch.testing.assert_close(loss(outputs, targets), expected, rtol=1e-12, atol=1e-12)
    check_curvature(loss, outputs, targets)
    unit = F.normalize(outputs.flatten(1)), F.normalize(targets.flatten(1))
    torch.testing.assert_close(loss(outputs, targets), SquaredError()(*unit), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss(outputs, 3 * targets), loss(outputs, targets))


@settings(deadline=None, max_examples=30)
@given(
    shape=st.sampled_from(SHAPES),
    smoothing=st.sampled_from([0.0, 0.01, 1.0, 100.0]),
    seed=st.integers(0, 10_000),
)
def test_feature_distance(shape, smoothing, seed):
    outputs, targets = case(shape, seed)
    loss = FeatureDistance(smoothing)
    loss.validate(outputs, targets)
    squares = (outputs - targets).flatten(1).square().sum(1)
    torch.testing.assert_close(
        loss(outputs, targets), (squares + smoothing**2).sqrt() - smoothing, rtol=1e-9, atol=1e-12
    )
    if shape[1:] != (1,) or smoothing:  # in one dimension |δ| has no curvature, up to rounding
        check_curvature(loss, outputs, targets)


def test_eigenvalues_of_the_cosine_are_those_stated():
    outputs, targets = case((6, 5), 3)
    cosine = F.cosine_similarity(outputs, targets)
    root = (cosine.square() + 4 * (1 - cosine.square())).sqrt()
    stated = torch.stack([(cosine - root) / 2, *[cosine] * 3, (cosine + root) / 2], dim=1)
    stated = (stated / outputs.square().sum(1, keepdim=True)).sort(dim=1).values
    values = torch.linalg.eigvalsh(Cosine().hessian_blocks(outputs, targets)[:, 0])
    torch.testing.assert_close(values, stated)
    assert (values[:, 0] < 0).all()


@pytest.mark.parametrize("loss", [Cosine(), FeatureDistance(), FeatureDistance(0.5)])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_every_mode_of_differentiation(loss):
    check_differentiation(loss, *case((4, 3), 1))
    custom = CustomLoss(loss.__call__, name="same")
    torch.testing.assert_close(loss.hessian_blocks(*case((4, 3), 2)), custom.hessian_blocks(*case((4, 3), 2)))


def test_a_large_smoothing_is_squared_error_in_its_units():
    outputs, targets = case((4, 3), 5)
    torch.testing.assert_close(
        1e4 * FeatureDistance(1e4)(outputs, targets), SquaredError()(outputs, targets), rtol=1e-6, atol=0
    )


def test_smoothed_distance_is_smooth_where_output_and_target_meet():
    outputs = torch.randn(2, 3, dtype=torch.float64)
    loss = FeatureDistance(0.25)
    loss.validate(outputs, outputs)
    check_curvature(loss, outputs, outputs)


def test_names_and_settings():
    assert resolve_loss("cosine") == Cosine() and resolve_loss("feature-distance") == FeatureDistance()
    assert Cosine().settings() == {"loss": "cosine"}
    assert FeatureDistance(1).settings() == {"loss": "feature_distance", "smoothing": 1.0}
    assert not Cosine().convex and FeatureDistance().convex


def test_the_cosine_has_no_square_root_and_neither_is_a_likelihood():
    with pytest.raises(UnsupportedError, match=r"not convex.*squared_error"):
        Cosine().hessian_sqrt_blocks(*case((2, 3), 0))
    for loss in (Cosine(), FeatureDistance()):
        with pytest.raises(UnsupportedError, match="not the negative logarithm"):
            loss.fisher_sqrt_blocks(*case((2, 3), 0))


@pytest.mark.parametrize("smoothing", [-1.0, float("inf"), float("nan"), True])
def test_smoothing_out_of_range_is_refused(smoothing):
    with pytest.raises(InputError, match=rf"^smoothing={smoothing}: expected a finite number ≥ 0"):
        FeatureDistance(smoothing)


def test_points_without_a_derivative_are_refused():
    ones, zero = torch.ones(3, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    with pytest.raises(InputError, match="output is the zero vector for example 1"):
        Cosine().validate(zero, ones)
    with pytest.raises(InputError, match="target is the zero vector for example 1"):
        Cosine().validate(ones, zero)
    with pytest.raises(InputError, match=r"output equals the target for example 2.*smoothing"):
        FeatureDistance().validate(ones, zero)


@pytest.mark.parametrize("loss", [Cosine(), FeatureDistance()])
def test_bad_targets_are_refused(loss):
    with pytest.raises(InputError, match="one target vector per example"):
        loss.validate(torch.ones(3, 2), torch.ones(3, 3))
    with pytest.raises(InputError, match="one target vector per example"):
        loss.validate(torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match="type list"):
        loss.validate(torch.ones(1, 2), [1.0, 2.0])
    with pytest.raises(NonFiniteError, match="targets contain nan"):
        loss.validate(torch.ones(1, 2), torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(InputError, match="floating-point"):
        loss.validate(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2))
