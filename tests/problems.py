"""The case table of the tests: small float64 problems of every kind, each with its dense oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wherefrom.losses import CrossEntropy, CustomLoss
from wherefrom.task import Objective
from wherefrom.testing import DenseProblem

N = 11


@dataclass
class Problem:
    model: nn.Module
    data: Any
    loss: Any
    forward: Callable[[nn.Module], Tensor]  # on all examples
    plain_loss: Callable[[Tensor], Tensor]  # outputs -> (n,)
    options: dict[str, Any] = field(default_factory=dict)
    fisher_weights: Tensor | None = None
    is_softmax: bool = False  # a likelihood over classes, so that Fisher = GGN

    def objective(self, **options: Any) -> Objective:
        return Objective(self.model, self.data, loss=self.loss, **{**self.options, **options})

    def dense(self) -> DenseProblem:
        return DenseProblem(self.model, self.forward, self.plain_loss, self.objective().parameters.names)


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return build().double().eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int, classes: int = 3, seed: int = 1) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def classification(model: nn.Module, x: Tensor, y: Tensor, **options: Any) -> Problem:
    return Problem(
        model,
        (x, y),
        "cross_entropy",
        lambda m: m(x),
        lambda f: F.cross_entropy(f, y, reduction="none"),
        options,
        is_softmax=True,
    )


def linear_head() -> Problem:
    return classification(seeded(lambda: nn.Linear(4, 3)), normal(N, 4), labels(N))


def linear_head_without_bias() -> Problem:
    return classification(seeded(lambda: nn.Linear(4, 3, bias=False)), normal(N, 4), labels(N))


def mlp(width: int = 5, outputs: int = 3) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, outputs)))


def tanh_mlp() -> Problem:
    return classification(mlp(), normal(N, 4), labels(N))


def head_on_frozen_features() -> Problem:
    model = mlp()
    model[0].requires_grad_(False)
    return classification(model, normal(N, 4), labels(N))


def selected_weight_only() -> Problem:
    return classification(mlp(), normal(N, 4), labels(N), parameters="2.weight")


def frozen_in_the_middle() -> Problem:
    model = mlp()
    model[0].bias.requires_grad_(False)
    return classification(model, normal(N, 4), labels(N))


def convolution() -> Problem:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
        )
    )
    return classification(model, normal(N, 1, 4, 4), labels(N))


class TiedAutoencoder(nn.Module):
    """One matrix used twice, by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


def tied_weights() -> Problem:
    x = normal(N, 4)
    return Problem(
        seeded(TiedAutoencoder),
        (x, x),
        "squared_error",
        lambda m: m(x),
        lambda f: 0.5 * (f - x).square().sum(1),
    )


class Attention(nn.Module):
    """One causal attention layer on token embeddings, with class scores for every token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.project = nn.Linear(4, 12)
        self.head = nn.Linear(4, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = self.project(self.embed(tokens)).unsqueeze(1).chunk(3, dim=-1)
        return self.head(F.scaled_dot_product_attention(q, k, v, is_causal=True).squeeze(1))


def attention_tokens(**options: Any) -> Problem:
    tokens, y = labels(N, 3, classes=5, seed=2), labels(N, 3, classes=5, seed=3)
    y[::3, 1:] = -100
    y[4] = -100
    kept = (y != -100).double()
    weights = kept / kept.sum(1, keepdim=True).clamp(min=1)

    def plain(f: Tensor) -> Tensor:
        return (F.cross_entropy(f.transpose(1, 2), y, reduction="none") * weights).sum(1)

    return Problem(
        seeded(Attention),
        (tokens, y),
        CrossEntropy(class_dim=-1),
        lambda m: m(tokens),
        plain,
        options,
        weights,
        True,
    )


def token_head() -> Problem:
    return attention_tokens(parameters="head")


class DictModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.second = nn.Linear(3, 3)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.unused = nn.Linear(2, 1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, features: Tensor, shift: Tensor) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(logits=self.second(torch.tanh(self.scale * self.first(features)) + shift))


def dict_with_logits() -> Problem:
    x, shift, y = normal(N, 4), normal(N, 3, seed=5), labels(N)
    return Problem(
        seeded(DictModel),
        {"features": x, "shift": shift, "labels": y},
        "cross_entropy",
        lambda m: m(x, shift).logits,
        lambda f: F.cross_entropy(f, y, reduction="none"),
        is_softmax=True,
    )


class Squeezed(nn.Module):
    """Outputs `(b,)` or, from several positions, `(b, s)`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).squeeze(-1)


def _binary(model: nn.Module) -> Problem:
    x, y = normal(N, 4), labels(N, classes=2).double()
    return Problem(
        model,
        (x, y),
        "binary_cross_entropy",
        lambda m: m(x),
        lambda f: F.binary_cross_entropy_with_logits(f, y, reduction="none"),
    )


def logistic_regression_squeezed() -> Problem:
    return _binary(seeded(lambda: Squeezed(nn.Linear(4, 1))))


def binary_mlp_squeezed() -> Problem:
    return _binary(seeded(lambda: Squeezed(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))))


def multiple_choice() -> Problem:
    """A head applied to every option, and one softmax over the options: positions are coupled by the loss."""
    return classification(seeded(lambda: Squeezed(nn.Linear(4, 1))), normal(N, 3, 4), labels(N))


def custom_loss_over_positions() -> Problem:
    x, y = normal(N, 2, 3), normal(N, 2, 2, seed=4)

    def coupled(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).flatten(1).sum(1).square() + 0.1 * (outputs - targets).square().flatten(
            1
        ).sum(1)

    return Problem(
        seeded(lambda: nn.Linear(3, 2)),
        (x, y),
        CustomLoss(coupled, convex=True),
        lambda m: m(x),
        lambda f: coupled(f, y),
    )


def soft_targets() -> Problem:
    x, q = normal(N, 4), torch.softmax(normal(N, 3, seed=6), -1)
    return Problem(
        mlp(), (x, q), "cross_entropy", lambda m: m(x), lambda f: F.cross_entropy(f, q, reduction="none")
    )


def weighted_and_smoothed() -> Problem:
    x, y, w = normal(N, 4), labels(N), torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)
    return Problem(
        mlp(),
        (x, y),
        CrossEntropy(class_weights=w, label_smoothing=0.1),
        lambda m: m(x),
        lambda f: F.cross_entropy(f, y, weight=w, label_smoothing=0.1, reduction="none"),
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    build.__name__: build
    for build in (
        linear_head,
        linear_head_without_bias,
        head_on_frozen_features,
        selected_weight_only,
        logistic_regression_squeezed,
        token_head,
        multiple_choice,
        custom_loss_over_positions,
        tanh_mlp,
        frozen_in_the_middle,
        convolution,
        tied_weights,
        attention_tokens,
        dict_with_logits,
        binary_mlp_squeezed,
        soft_targets,
        weighted_and_smoothed,
    )
}
HEADS = {
    "linear_head",
    "linear_head_without_bias",
    "head_on_frozen_features",
    "selected_weight_only",
    "logistic_regression_squeezed",
    "token_head",
    "multiple_choice",
    "custom_loss_over_positions",
}
