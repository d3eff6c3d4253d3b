"""Influence with respect to inputs needs `∇_x ∇_θ ℓ`: refused by name where torch has none or a wrong one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

import wherefrom
from tests.problems import labels, normal
from wherefrom.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


class _Constant(Function):
    """Its slope is a constant to torch."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = x.cos()
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class Net(nn.Module):
    def __init__(self, function, tokens: bool):
        super().__init__()
        self.read = nn.Embedding(6, 4) if tokens else nn.Linear(3, 4)
        self.middle, self.last, self.function = nn.Linear(4, 4), nn.Linear(4, 3), function

    def forward(self, x: Tensor) -> Tensor:
        made = self.read(x)
        return self.last(self.function(self.middle(made.mean(1) if made.ndim > 2 else made)))


def fit(function, tokens: bool, dtype: torch.dtype) -> wherefrom.Influence:
    torch.manual_seed(0)
    model = Net(function, tokens).to(dtype)
    x = torch.randint(0, 6, (8, 5)) if tokens else normal(8, 3).to(dtype)
    options = {"loss": "cross_entropy", "damping": 0.5, "progress": False}
    return wherefrom.Influence(model, (x, labels(8)), **options).fit()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("tokens", [False, True], ids=["inputs", "embedding"])
@pytest.mark.parametrize(
    ("function", "words"),
    [(_Constant.apply, "'_Constant'"), (F.hardsigmoid, "second derivative of every operation")],
    ids=["wrong", "missing"],
)
def test_a_wrong_or_missing_mixed_derivative_is_refused_where_it_is_needed(function, words, tokens, dtype):
    made = fit(function, tokens, dtype)
    queries = made.train[0][:2], made.train[1][:2]
    assert bool(torch.isfinite(made.scores(queries).values).all())
    with pytest.raises(UnsupportedError, match=words):
        made.input_influence(queries, embedding="read" if tokens else None)
    if tokens:
        with pytest.raises(UnsupportedError, match=words):
            made.token_replacements(0, queries, embedding="read")
    else:
        with pytest.raises(UnsupportedError, match=words):
            made.attack(queries, budget=0.1, recipe=lambda train, seed: made.objective.model)


@pytest.mark.parametrize("function", [torch.tanh, torch.relu, torch.abs], ids=["tanh", "relu", "abs"])
def test_right_ones_are_accepted(function):
    for dtype in (torch.float32, torch.float64):
        made = fit(function, False, dtype)
        assert made.input_influence(made.train).values.shape == (1, 8, 3)
        made = fit(function, True, dtype)
        assert made.input_influence(made.train, embedding="read").values.shape == (1, 8, 5, 4)
