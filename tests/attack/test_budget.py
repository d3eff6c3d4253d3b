"""What an edit may look like: projections, grids, and budgets that make no sense."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.studies.attack import Budget

NORMS = st.sampled_from(["linf", "l2"])
SEEDS = st.integers(0, 10_000)


def point(seed: int, *, grid: float | None = None) -> torch.Tensor:
    x = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x if grid is None else (x / grid).round() * grid


@settings(max_examples=40, deadline=None)
@given(SEEDS, NORMS, st.floats(0.01, 3.0))
def test_projections_stay_in_the_ball_and_in_the_range(seed, norm, radius):
    budget = Budget(radius, norm, 0.0, 1.0)
    original, x = point(seed), 4 * point(seed + 1) - 1.5
    made = budget.project(x, original)
    size = (made - original).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    assert bool((size <= radius * (1 + 1e-12)).all())
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    torch.testing.assert_close(budget.project(made, original), made, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(budget.project(original, original), original, rtol=0, atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_the_same_picture_is_kept(seed):
    budget = Budget.grey_levels(0.5)
    original = point(seed, grid=1 / 255 if seed % 2 else None)
    made = budget.emit(budget.project(original + 0.1 * (point(seed + 1) - 0.5), original), original)
    same = budget.same_picture(made.float(), original.float())
    assert same is not None and bool(same.all())
    assert float(budget.in_levels(made - original).abs().max()) <= 0.5
    assert not torch.equal(made, original)


@settings(max_examples=40, deadline=None)
@given(SEEDS, NORMS, st.floats(1.0, 9.0))
def test_snapped_values_lie_on_the_grid_within_the_radius(seed, norm, radius):
    budget = Budget.grey_levels(radius, norm=norm, grid="snap")
    original = point(seed, grid=1 / 255)
    made = budget.emit(budget.project(original + 0.1 * (point(seed + 1) - 0.5), original), original)
    levels = made * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
    change = budget.in_levels(made - original).flatten(1)
    assert bool((change.norm(p=torch.inf if norm == "linf" else 2, dim=1) <= radius + 1e-9).all())
    assert float(made.min()) >= -1e-12 and float(made.max()) <= 1 + 1e-12


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_is_the_steepest_of_its_length(norm):
    budget = Budget(1.0, norm)
    x, gradient = point(0), point(1) - 0.5
    step = budget.ascend(x, gradient, 0.3) - x
    order = torch.inf if norm == "linf" else 2
    torch.testing.assert_close(step.flatten(1).norm(p=order, dim=1), torch.full((3,), 0.3).double())
    dual = gradient.flatten(1).norm(p=budget.dual, dim=1)
    torch.testing.assert_close((step * gradient).flatten(1).sum(1), 0.3 * dual)


def test_levels_may_differ_by_channel():
    std = torch.tensor([0.5, 0.25]).view(2, 1).double()
    budget = Budget.grey_levels(0.5, low=-1 / std, high=1 / std)
    original = (torch.randint(0, 256, (3, 2, 4)) / 255 * 2 - 1) / std
    made = budget.project(original + 10, original)
    levels = budget.in_levels(made - original)
    assert 0.49 < float(levels.max()) < 0.5
    assert bool(budget.same_picture(made, original).all())
    budget.check(original, [4, 5, 6])


def test_originals_must_be_valid():
    with pytest.raises(InputError, match=r"training example 8 has values from .* outside the valid range"):
        Budget(0.1, low=0.0, high=1.0).check(torch.tensor([[0.5, 1.0], [0.2, 1.5]]), [7, 8])
    with pytest.raises(InputError, match="training example 7 has values from -1"):
        Budget(0.1, low=0.0, high=1.0).check(torch.tensor([[-1.0, 1.0]]), [7])
    with pytest.raises(InputError, match=r"training example 7 is up to 0\.5 grey levels off the grid"):
        Budget.grey_levels(2).check(torch.tensor([[10.5 / 255, 1.0]]).double(), [7])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(0.0), r"radius=0\.0: expected a finite number above 0"),
        (lambda: Budget(-1), "radius=-1"),
        (lambda: Budget(float("inf")), "radius=inf"),
        (lambda: Budget(True), "radius=True"),
        (lambda: Budget(1.0, "l1"), "norm='l1'"),
        (lambda: Budget(1.0, grid="8bit"), "grid='8bit'"),
        (lambda: Budget(1.0, low=1.0, high=0.0), r"low=1\.0, high=0\.0; expected low < high"),
        (lambda: Budget(1.0, low="dark"), "low='dark'"),
        (lambda: Budget(1.0, low=float("-inf")), "low=-inf; expected finite numbers"),
        (lambda: Budget(1.0, low=0.0, level=0.0), r"level=0\.0; expected a size above 0"),
        (lambda: Budget(1.0, grid="same"), r"needs low= and level="),
        (lambda: Budget.grey_levels(0.5, grid="snap"), r"radius=0\.5 grey levels with grid='snap'"),
        (lambda: Budget.grey_levels(1, low=None), "need low= and high="),
        (lambda: Budget.grey_levels(1, levels=1), "levels=1"),
    ],
)
def test_bad_budgets_are_refused(make, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        make()
