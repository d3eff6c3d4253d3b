"""The chain-rule split at the last layer, against plain autograd one example at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.losses import FeatureDistance
from wherefrom.studies.geometry.gradient_split import gradient_split
from wherefrom.task import Objective

N = 7


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(bias: bool = True, seed: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 3, bias=bias)
        ).double()


LABELS = torch.arange(N) % 3
VECTORS = normal(N, 3, seed=5)
LOSSES: dict[str, tuple[Any, Tensor, Any]] = {
    "cross_entropy": ("cross_entropy", LABELS, lambda z, y: F.cross_entropy(z, y)),
    "squared_error": ("squared_error", VECTORS, lambda z, y: 0.5 * (z - y).square().sum()),
    "cosine": ("cosine", VECTORS, lambda z, y: 1 - F.cosine_similarity(z, y)[0]),
    "feature_distance": ("feature_distance", VECTORS, lambda z, y: (z - y).norm()),
    "smoothed": (FeatureDistance(0.5), VECTORS, lambda z, y: ((z - y).square().sum() + 0.25).sqrt() - 0.5),
    "custom": (lambda z, y: (z - y).pow(4).sum(1), VECTORS, lambda z, y: (z - y).pow(4).sum()),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("bias", [True, False])
def test_split_equals_autograd(name, bias):
    loss, targets, plain = LOSSES[name]
    model, x = network(bias), normal(N, 4, seed=1)
    split = gradient_split(Objective(model, (x, targets), loss=loss), keep_parameters=True)
    assert len(split) == N and split.head == "4" and split.has_bias == bias
    for i in range(N):
        leaf = x[i : i + 1].clone().requires_grad_()
        features = model[:4](leaf)
        features.retain_grad()
        model.zero_grad()
        outputs = model[4](features)
        outputs.retain_grad()
        plain(outputs, targets[i : i + 1]).backward()
        close = torch.testing.assert_close
        close(split.residuals[i], outputs.grad[0])
        close(split.features[i], features.detach()[0])
        close(split.weight_gradients[i], model[4].weight.grad)
        close(split.weight_norms[i], model[4].weight.grad.norm())
        close(split.feature_gradients[i], features.grad[0])
        close(split.feature_norms[i], features.grad.norm())
        close(split.input_gradients[i], leaf.grad[0])
        close(split.input_norms[i], leaf.grad.norm())
        before = {f"{k}.{part}": getattr(model[k], part).grad for k in (0, 2) for part in ("weight", "bias")}
        for key, value in before.items():
            close(split.parameter_gradients[key][i], value)
        size = torch.stack([value.square().sum() for value in before.values()]).sum()
        close(split.parameter_norms[i], size.sqrt())
        head = model[4].weight.grad.square().sum()
        if bias:
            close(split.bias_norms[i], model[4].bias.grad.norm())
            head = head + model[4].bias.grad.square().sum()
        else:
            assert split.bias_norms[i] == 0
        close(split.head_share[i], head / (head + size))


def test_residual_of_cross_entropy_is_p_minus_y():
    model, x = network(), normal(N, 4, seed=1)
    split = gradient_split(Objective(model, (x, LABELS), loss="cross_entropy"))
    torch.testing.assert_close(split.residuals, model(x).softmax(1).detach() - F.one_hot(LABELS, 3).double())
    torch.testing.assert_close(split.feature_gradients, split.residuals @ model[4].weight.detach())
    assert split.parameter_gradients is None and "share of the head" in repr(split)


def test_other_examples_in_batches_and_some_parameters_only():
    model = network()
    objective = Objective(
        model, (normal(N, 4), LABELS), loss="cross_entropy", parameters=["2.weight", "4.weight"]
    )
    other = (normal(5, 4, seed=9), torch.tensor([0, 2, 1, 1, 0]))
    together = gradient_split(objective, other, keep_parameters=True)
    assert list(together.parameter_gradients) == ["2.weight"]
    objective.pass_size = 2
    apart = gradient_split(objective, other)
    torch.testing.assert_close(apart.parameter_norms, together.parameter_norms)
    torch.testing.assert_close(apart.input_gradients, together.input_gradients)
    head_only = Objective(model, (normal(N, 4), LABELS), loss="cross_entropy", parameters="4")
    assert (gradient_split(head_only, other).parameter_norms == 0).all()
    torch.testing.assert_close(gradient_split(head_only, other).weight_norms, together.weight_norms)


class Tokens(nn.Module):
    """Mean of embeddings, then a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))


def test_tokens_have_no_input_gradient():
    model = Tokens().double()
    tokens = torch.arange(N * 2).view(N, 2) % 5
    split = gradient_split(Objective(model, (tokens, LABELS), loss="cross_entropy"))
    assert split.input_gradients is None and split.input_norms is None
    assert (split.parameter_norms > 0).all() and "x " not in repr(split)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(a.tanh() * b)


def test_the_input_is_named_where_there_are_several():
    data = (normal(N, 4), normal(N, 4, seed=1), LABELS)
    objective = Objective(TwoInputs().double(), data, loss="cross_entropy")
    with pytest.raises(InputError, match="2 floating-point inputs"):
        gradient_split(objective)
    split = gradient_split(objective, input=1)
    torch.testing.assert_close(split.input_gradients, split.feature_gradients * data[0].tanh())


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "no nn.Linear that runs once"),
        (Tied(), "shares its parameters|in another way too"),
        (nn.Sequential(nn.Linear(4, 2), nn.Bilinear(2, 2, 3))[:1].append(nn.Tanh()), "no nn.Linear"),
    ],
)
def test_models_without_a_linear_head_are_refused(model, message):
    with pytest.raises(UnsupportedError, match=message):
        gradient_split(Objective(model.double(), (normal(N, 4), LABELS), loss="cross_entropy"))


def test_several_positions_are_refused():
    objective = Objective(
        Positions().double(), (normal(N, 2, 4), LABELS[:, None].expand(N, 2)), loss="cross_entropy"
    )
    with pytest.raises(UnsupportedError, match="several positions"):
        gradient_split(objective)
