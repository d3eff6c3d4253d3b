"""Two trained models, small enough to factorise their curvature: what the solvers are studied on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import wherefrom
from wherefrom.influence.measurements import resolve_measurement
from wherefrom.linalg import FactoredOperator, LinearOperator, split_diagonal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ekfac_digits import digits, mnist

QUERIES = 5
WEIGHT_DECAY = 0.001


class KeptRows(LinearOperator):
    """`(1/n) Σ F_i F_iᵀ` from factors kept in memory: the library's products, many times faster for a small
    network, so that every setting can be run from several seeds."""

    def __init__(self, rows: Tensor):
        super().__init__(rows.shape[2], rows.dtype, rows.device, lower_bound=0.0)
        self.rows = rows  # (n, r, p): F_iᵀ
        self.n_examples = rows.shape[0]

    def matmat(self, vectors: Tensor) -> Tensor:
        flat = self.rows.flatten(0, 1)
        return flat.T @ (flat @ vectors) / len(self.rows)

    def sampled(self, indices: Tensor) -> LinearOperator:
        return KeptRows(self.rows[indices])


@dataclass(frozen=True)
class Problem:
    """A model at its minimum.

    Attributes:
        name: for tables and plots.
        influence: fitted, with nothing but weight decay for damping.
        curvature: `C`, weight decay included, as products with kept rows.
        gradients: of the training examples' losses, `(n, p)`.
        queries: gradients of the query losses, `(p, k)`.
        asked: the query examples themselves.
        largest: the largest eigenvalue of `C`.
    """

    name: str
    influence: wherefrom.Influence
    curvature: LinearOperator
    gradients: Tensor
    queries: Tensor
    asked: tuple[Tensor, Tensor]
    largest: float

    @property
    def n(self) -> int:
        return len(self.gradients)

    def damping_for(self, condition: float) -> float:
        """`λ ≥ 0` that brings the condition number of `C_λ` down to this."""
        return max(self.largest / condition - WEIGHT_DECAY, 0.0)

    def scores(self, solution: Tensor) -> Tensor:
        """`(k, n)` from `C_λ⁻¹ V`."""
        return solution.T @ self.gradients.T

    def exact(self, damping: float) -> Tensor:
        """The scores of `solver="exact"` in float64."""
        operator = self.curvature.damped(damping)
        return self.scores(wherefrom.Exact().prepare(operator).solve(self.queries).x)

    def product_seconds(self, sizes: Sequence[int], rounds: int = 5) -> dict[int, float]:
        """CPU time of one of the library's own products with all columns, by examples in the batch."""
        operator = self.influence.curvature.operator
        found = {}
        for size in sizes:
            part = operator.sampled(torch.arange(self.n)[torch.arange(size) % self.n])
            part.matmat(self.queries)
            start = time.process_time()
            for _ in range(rounds):
                indices = torch.randint(self.n, (size,))
                operator.sampled(indices).matmat(self.queries)
            found[size] = (time.process_time() - start) / rounds
        return found


def prepare(
    name: str, model: nn.Module, x: Tensor, y: Tensor, n: int, loss: str, tolerance: float
) -> Problem:
    """Train on the first `n` examples and ask about the next few."""
    torch.manual_seed(0)
    recipe = wherefrom.FullBatch(
        model.double(), loss=loss, weight_decay=WEIGHT_DECAY, gradient_tolerance=tolerance
    )
    trained = recipe((x[:n], y[:n]), 0).double().eval()
    influence = wherefrom.Influence(
        trained,
        (x[:n], y[:n]),
        loss=loss,
        weight_decay=WEIGHT_DECAY,
        damping=0.0,
        solver=wherefrom.Exact(),
        progress=False,
    ).fit()
    fitted = influence
    (factored,), decay = split_diagonal(fitted.curvature.operator)
    if not isinstance(factored, FactoredOperator):
        raise TypeError(f"{name}: the curvature is a {type(factored).__name__}, which has no factors to keep")
    rows = KeptRows(torch.cat(list(factored.factor_examples())))
    curvature = rows.damped(float(decay.min()))
    loss_of = resolve_measurement("loss", fitted.objective.loss)
    with torch.no_grad():
        losses = fitted.objective.loss(trained(x[n:]), y[n:])
    hardest = n + losses.argsort(descending=True, stable=True)[:QUERIES]
    asked = (x[hardest], y[hardest])
    gradients = fitted.train_gradients.rows(slice(0, n))
    query_gradients = fitted.measure_gradients(asked, loss_of).rows(slice(0, QUERIES)).T
    largest = float(torch.linalg.eigvalsh(curvature.to_dense())[-1])
    return Problem(name, influence, curvature, gradients, query_gradients, asked, largest)


def logistic(images: Tensor, labels: Tensor, n: int) -> Problem:
    """Logistic regression of ones against sevens."""
    pair = (labels == 1) | (labels == 7)
    x, y = images[pair].flatten(1), (labels[pair] == 7).double()[:, None]
    model = nn.Linear(x.shape[1], 1)
    return prepare("logistic regression", model, x, y, min(n, len(x) // 2), "binary_cross_entropy", 1e-6)


def small_cnn(images: Tensor, labels: Tensor, n: int) -> Problem:
    """An all-convolutional network for ten digits: two strided convolutions, a 1 × 1 one, a mean."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 10, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return prepare("small CNN", model, images, labels, min(n, len(images) // 2), "cross_entropy", 1e-3)


def digit_images(folder: Path | None) -> tuple[Tensor, Tensor]:
    """Images `(n, 1, side, side)` in [0, 1] and labels: MNIST at half its resolution where there is a folder
    with its files, otherwise scikit-learn's digits."""
    if folder is None:
        return digits()
    images, labels = mnist(folder, 20_000)
    return torch.nn.functional.avg_pool2d(images, 2), labels
