"""What the tests of Kronecker curvature share: more loss options, and dense views of what was gathered."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.problems import PROBLEMS, Attention, N, Problem, labels, mlp, normal, seeded
from wherefrom.curvature import GaussNewtonOperator, choose_curvature
from wherefrom.curvature.kronecker import (
    KroneckerCurvature,
    KroneckerGathering,
    KroneckerOptions,
    gather_kronecker,
)
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.layers import Block
from wherefrom.losses import BinaryCrossEntropy, CrossEntropy, Logistic, SquaredError


def _classes(loss: CrossEntropy, **torch_options: object) -> Problem:
    x, y = normal(N, 4), labels(N)
    return Problem(
        mlp(),
        (x, y),
        loss,
        lambda m: m(x),
        lambda f: F.cross_entropy(f, y, reduction="none", **torch_options),
    )


def class_weights() -> Problem:
    w = torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)
    return _classes(CrossEntropy(class_weights=w), weight=w)


def label_smoothing() -> Problem:
    return _classes(CrossEntropy(label_smoothing=0.2), label_smoothing=0.2)


def ignored_examples() -> Problem:
    x, y = normal(N, 4), labels(N)
    y[::3] = 7
    loss = CrossEntropy(ignore_index=7)
    return Problem(
        mlp(),
        (x, y),
        loss,
        lambda m: m(x),
        lambda f: F.cross_entropy(f, y, ignore_index=7, reduction="none"),
    )


def weighted_soft_targets() -> Problem:
    x, q = normal(N, 4), torch.softmax(normal(N, 3, seed=6), -1)
    w = torch.tensor([0.3, 2.0, 1.0], dtype=torch.float64)
    loss = CrossEntropy(class_weights=w)
    plain: Callable[[Tensor], Tensor] = lambda f: F.cross_entropy(f, q, weight=w, reduction="none")  # noqa: E731
    return Problem(mlp(), (x, q), loss, lambda m: m(x), plain)


def summed_tokens() -> Problem:
    tokens, y = labels(N, 3, classes=5, seed=2), labels(N, 3, classes=5, seed=3)
    y[::2, 1:] = -100

    def plain(f: Tensor) -> Tensor:
        return F.cross_entropy(f.transpose(1, 2), y, reduction="none").sum(1)

    loss = CrossEntropy(class_dim=-1, token_reduction="sum")
    return Problem(seeded(Attention), (tokens, y), loss, lambda m: m(tokens), plain)


def positive_weights() -> Problem:
    x, y = normal(N, 4), labels(N, 3, classes=2, seed=8).double()
    p = torch.tensor([0.5, 3.0, 1.0], dtype=torch.float64)
    loss = BinaryCrossEntropy(pos_weight=p, reduction_over_outputs="mean")

    def plain(f: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(f, y, pos_weight=p, reduction="none").mean(1)

    return Problem(mlp(), (x, y), loss, lambda m: m(x), plain)


def signed_labels() -> Problem:
    x, y = normal(N, 4), labels(N, 1, classes=2).double() * 2 - 1
    return Problem(
        mlp(outputs=1),
        (x, y),
        Logistic(),
        lambda m: m(x),
        lambda f: torch.log1p(torch.exp(-y * f))[:, 0],
    )


def mean_squares() -> Problem:
    x, y = normal(N, 4), normal(N, 3, seed=9)
    loss = SquaredError(scale=1.0, reduction_over_outputs="mean")
    return Problem(mlp(), (x, y), loss, lambda m: m(x), lambda f: (f - y).square().mean(1))


def normalised() -> Problem:
    """With layers whose gradients are explicit rows."""
    x, y = normal(N, 4), labels(N)
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)))
    return Problem(
        model, (x, y), "cross_entropy", lambda m: m(x), lambda f: F.cross_entropy(f, y, reduction="none")
    )


OPTIONS = (
    class_weights,
    label_smoothing,
    ignored_examples,
    weighted_soft_targets,
    summed_tokens,
    positive_weights,
    signed_labels,
    mean_squares,
    normalised,
)
CASES: dict[str, Callable[[], Problem]] = {**PROBLEMS, **{build.__name__: build for build in OPTIONS}}


class Setting:
    """A problem with its operator and factored gradients."""

    def __init__(self, problem: Problem, curvature: str = "ggn", seed: int = 0, **objective: object):
        engine = GradientEngine(problem.objective(**objective))
        chosen = choose_curvature(engine, curvature, seed=seed).operator
        terms = getattr(chosen, "terms", [chosen])
        self.operator = next(term for term in terms if isinstance(term, GaussNewtonOperator))
        self.layers = LayerGradients(engine)

    def gather(self, method: str = "ekfac", **options: object) -> KroneckerCurvature:
        made = KroneckerOptions(method, **options)  # type: ignore[arg-type]
        return gather_kronecker(self.operator, self.layers, made, progress=False)

    def gathering(self, method: str = "ekfac", **options: object) -> KroneckerGathering:
        made = KroneckerOptions(method, **options)  # type: ignore[arg-type]
        return KroneckerGathering(self.operator, self.layers, made, progress=False)


def entries(matrix: Tensor, block: Block) -> Tensor:
    """The block's part of a `p × p` matrix, row-major in `(g, o, i)`."""
    index = block.index.reshape(-1)
    return matrix[index[:, None], index[None]]


def blocks_of(curvature: KroneckerCurvature) -> list[Tensor]:
    """The approximation, block by block, as matrices."""
    dense = curvature.operator().to_dense()
    return [entries(dense, block) for block in curvature.blocks]


def linear_network(*widths: int, pooled: bool = False, positions: bool = False) -> Problem:
    """A deep linear network with squared loss: on vectors, on positions, or on the mean over positions."""
    shape = (N, 3, widths[0]) if pooled or positions else (N, widths[0])
    x = normal(*shape)
    y = normal(N, *shape[1:-1], widths[-1], seed=3) if not pooled else normal(N, widths[-1], seed=3)
    model = seeded(lambda: Pooled(widths) if pooled else nn.Sequential(*_linear(widths)))
    return Problem(
        model,
        (x, y),
        "squared_error",
        lambda m: m(x),
        lambda f: 0.5 * (f - y).square().flatten(1).sum(1),
    )


def _linear(widths: tuple[int, ...]) -> list[nn.Module]:
    return [nn.Linear(i, o) for i, o in pairwise(widths)]


class Pooled(nn.Module):
    """Linear layers at every position, and the mean over positions."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.layers = nn.Sequential(*_linear(widths))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(1)
