"""EK-FAC scores of a small convolutional network, what they leave out, and what retraining says.

    python examples/ekfac_digits.py                    # scikit-learn's digits, under a minute
    python examples/ekfac_digits.py --data DIR         # MNIST, from a folder with its four files

It trains a network, scores its training images for the test images it misreads most surely, prints how that
was done (the plan) and which layer rule attributed which parameters, compares the scores with those of the
full curvature, retrains without the images that matter most to see which of the two were right, and writes a
page.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import wherefrom

LOSS, WEIGHT_DECAY = "cross_entropy", 0.001


@dataclass(frozen=True)
class Problem:
    """Images `(n, 1, h, w)` in [0, 1] with their labels, and the network trained on the first of them."""

    train: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]
    model: nn.Module
    accuracy: float


def network(side: int) -> nn.Sequential:
    """Two strided convolutions and a linear layer."""
    left = -(-side // 4)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Conv2d(6, 12, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12 * left * left, 10),
    )


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits of 8 × 8 pixels, in a fixed random order."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(images / 16).view(-1, 1, 8, 8)[order], torch.as_tensor(labels)[order]


def mnist(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """The first training images of MNIST, 28 × 28 pixels."""
    sys.path.insert(0, str(Path(__file__).parent / "koh_liang_2017"))
    from mnist import load_mnist

    split = load_mnist(folder)[0].take(slice(0, count))
    return torch.as_tensor(split.x).view(-1, 1, 28, 28), torch.as_tensor(split.y)


def recipe(model: nn.Module) -> wherefrom.FullBatch:
    """Training to a minimum from the model given: its own parameters, when an image is left out."""
    return wherefrom.FullBatch(model, loss=LOSS, weight_decay=WEIGHT_DECAY, gradient_tolerance=1e-5)


def prepare(x: Tensor, y: Tensor, *, n_train: int, n_queries: int) -> Problem:
    """Train on the first images; ask about the others that are misread most surely."""
    torch.manual_seed(0)
    train, test = (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:])
    model = recipe(network(x.shape[-1]))(train, 0).double().eval()
    with torch.no_grad():
        sure, predicted = model(test[0]).softmax(1).max(1)
    wrong = (predicted != test[1]).nonzero()[:, 0]
    chosen = wrong[sure[wrong].argsort(descending=True, stable=True)[:n_queries]]
    return Problem(train, (test[0][chosen], test[1][chosen]), model, 1 - len(wrong) / len(test[1]))


def fit(
    problem: Problem, solver: wherefrom.EKFAC | wherefrom.CG, run_dir: Path | None = None
) -> wherefrom.Influence:
    """An influence function; both solvers get the same damping, a tenth of each layer's mean eigenvalue."""
    return wherefrom.Influence(
        problem.model,
        problem.train,
        loss=LOSS,
        weight_decay=WEIGHT_DECAY,
        solver=solver,
        damping=wherefrom.RelativeDamping(0.1),
        run_dir=run_dir,
    ).fit()


def agreement(scores: wherefrom.Scores, truth: wherefrom.Scores) -> dict[str, float]:
    """How scores compare with those of the full curvature: rank correlation per query, and relative error."""
    ours, theirs = scores.to_numpy(), truth.to_numpy()
    ranks = [float(spearmanr(own, other).statistic) for own, other in zip(ours, theirs)]
    error = float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours))
    return {"spearman": float(np.median(ranks)), "relative_error": error}


def predicted_change(scores: wherefrom.Scores, removed: np.ndarray) -> np.ndarray:
    """Of the queries' losses when an image is left out and the loss averaged over the others,
    `(removals, queries)`."""
    values = scores.to_numpy()
    return ((values - values.mean(axis=1, keepdims=True)) / (scores.n_train - 1))[:, removed].T


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run it all; returns the numbers that were printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with MNIST; default: small digits")
    parser.add_argument("--out", type=Path, default=Path("out/ekfac"), metavar="DIR", help="for the page")
    parser.add_argument("--train", type=int, default=600, metavar="N", help="training images")
    parser.add_argument("--queries", type=int, default=6, metavar="Q", help="misread images asked about")
    parser.add_argument("--remove", type=int, default=12, metavar="K", help="retrainings")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # so small a network gains nothing from more

    x, y = digits() if options.data is None else mnist(options.data, options.train + 2000)
    problem = prepare(x, y, n_train=options.train, n_queries=options.queries)
    print(f"{problem.accuracy:.1%} of the other images are read correctly.\n")

    # EK-FAC: each layer's curvature inverted alone. The factors are gathered once, in fit().
    approximate = fit(problem, wherefrom.EKFAC(), options.out / "run")
    print(approximate.explain(problem.queries), "\n")
    for row in approximate.coverage():
        print(f"{row.block:<6} {row.rule:<12} {row.size:>6,}  {', '.join(row.parameters)}  {row.reason}")
    scores = approximate.scores(problem.queries)
    print(f"\n{scores!r}\n{scores.helpful(3, query=0)}\n")

    # The same estimand without what EK-FAC leaves out: conjugate gradients on the full curvature.
    truth = fit(problem, wherefrom.CG(rtol=1e-6, preconditioner=wherefrom.EKFAC())).scores(problem.queries)
    found = agreement(scores, truth)
    print("Against the full curvature at the same damping:")
    print(f"  rank correlation {found['spearman']:.2f} (median over queries)")
    print(f"  relative error {found['relative_error']:.0%}; expected from probes: {scores.distance:.0%}\n")

    # Retraining decides what either is worth.
    retrain = recipe(problem.model)
    check = approximate.verify(problem.queries, retrain, remove=options.remove, scores=scores)
    better = np.corrcoef(predicted_change(truth, check.removed).ravel(), check.actual.ravel())[0, 1]
    found |= {"distance": float(scores.distance or np.nan)}
    found |= {"pearson": check.pearson(), "pearson_full": float(better)}
    print(f"{len(check.removed)} retrainings, predicted against actual change, Pearson:")
    print(f"  EK-FAC {found['pearson']:.2f}, full curvature {found['pearson_full']:.2f}. {check.words}")
    page = approximate.report(options.out / "report.html", problem.queries, scores, verification=check)
    print(f"The page: {page}")
    return found


if __name__ == "__main__":
    main()
