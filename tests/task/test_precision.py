"""Fewer digits than the errors are stated for: autocast and casts are turned off or refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.problems import labels, mlp, normal, seeded
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.influence import compute_scores, compute_self_scores

X, Y = normal(20, 4), labels(20)


def single() -> nn.Module:
    return mlp().float()


DATA = (X.float(), Y)


def fit(model, data=DATA, loss="cross_entropy", **options) -> Influence:
    return Influence(model, data, loss=loss, damping=0.1, progress=False, **options).fit()


@pytest.mark.parametrize("solver", ["exact", "ekfac"])
def test_autocast_around_all_calls_changes_nothing(solver):
    expected = fit(single(), solver=solver)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fit(single(), solver=solver)
        values, own = found.scores(DATA).values, found.self_scores().values
        change = found.remove([3]).change(DATA).parameters
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected.scores(DATA).values)
    torch.testing.assert_close(own, expected.self_scores().values)
    torch.testing.assert_close(change, expected.remove([3]).change(DATA).parameters)


def test_a_collate_function_is_called_without_autocast():
    w = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))

    def collate(items):
        return torch.stack([x for x, _ in items]) @ w, torch.stack([y for _, y in items])

    items = list(zip(*DATA))
    expected = fit(single(), items, collate=collate).scores(items).values
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fit(single(), items, collate=collate).scores(items).values, expected)


@pytest.mark.parametrize("compute", [lambda fitted: compute_scores(fitted, DATA), compute_self_scores])
def test_functions_that_autocast_would_reach_refuse_it(compute):
    fitted = fit(single())
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(InputError, match=r"torch\.autocast is on"),
    ):
        compute(fitted)


class Inside(nn.Module):
    def __init__(self, run) -> None:
        super().__init__()
        self.first, self.second, self.run = nn.Linear(4, 5), nn.Linear(5, 3), run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def autocast(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.second(torch.tanh(self.first(x))).float()


def autocast_in_the_middle(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = self.first(x)
    return self.second(hidden.float())


def half(self, x):
    return self.second(torch.tanh(self.first(x)).half().float())


def frozen_half(self, x):
    with torch.no_grad():
        hidden = torch.tanh(self.first(x)).bfloat16().float()
    return self.second(hidden)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (autocast, r"turns on torch\.autocast and computes in bfloat16"),
        (autocast_in_the_middle, r"turns on torch\.autocast and computes in bfloat16"),
        (half, r"casts what depends on the studied parameters to float16"),
    ],
)
def test_half_precision_inside_the_model_is_refused(run, message):
    with pytest.raises(InputError, match=message):
        fit(seeded(lambda: Inside(run)).float())


def test_half_precision_before_the_studied_parameters_makes_other_features_only():
    model = seeded(lambda: Inside(frozen_half)).float()
    with torch.no_grad():
        features = torch.tanh(model.first(DATA[0])).bfloat16().float()
    found = fit(model, parameters="second").scores(DATA).values
    torch.testing.assert_close(found, fit(model.second, (features, Y)).scores((features, Y)).values)


def test_single_precision_inside_a_double_computation_is_refused():
    model = seeded(lambda: Inside(lambda self, x: self.second(torch.tanh(self.first(x)).float().double())))
    with pytest.raises(
        InputError, match=r"to float32 \(float\) in a computation in float64.*dtype=torch\.float32"
    ):
        fit(model, (X, Y))


def test_half_precision_in_the_loss_is_refused():
    def loss(f, y):
        return F.cross_entropy(f.bfloat16(), y, reduction="none").float()

    with pytest.raises(InputError, match="the forward pass or the loss casts"):
        fit(single(), loss=loss)


def test_features_made_in_inference_mode_are_taken():
    with torch.inference_mode():
        x, buffer = DATA[0] * 1.0, torch.ones(3)
    model = seeded(
        lambda: Inside(lambda self, x: self.second(torch.tanh(self.first(x))) * self.scale)
    ).float()
    model.register_buffer("scale", buffer)
    expected = fit(seeded(lambda: Inside(lambda self, x: self.second(torch.tanh(self.first(x))))).float())
    for data in ((x, Y), list(zip(x, Y))):
        found = fit(model, data)
        torch.testing.assert_close(found.scores(data).values, expected.scores(DATA).values)
    with torch.inference_mode():
        queries = (DATA[0][:3] * 1.0, Y[:3])
        inside = found.scores(queries).values
    torch.testing.assert_close(inside, expected.scores((DATA[0][:3], Y[:3])).values)
