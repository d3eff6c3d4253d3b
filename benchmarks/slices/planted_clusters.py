"""Which way of clustering training examples finds a planted cluster of wrong labels?

48 cases on scikit-learn's digits: 12, 30 or 70 images of one digit that look alike are labelled as another,
with up to 5 % of random wrong labels besides; softmax regression, and a small network with EK-FAC. Clusters
are ranked by their joint predicted harm to a clean validation set; the first is compared with the planted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator

import numpy as np
import torch
from numpy.linalg import norm
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import load_digits
from torch import nn

import wherefrom
from wherefrom.studies.slices.tree import build_tree, cut, prune

SIZES, SEEDS, LANDMARKS = (12, 30, 70), (0, 1, 2, 3), 64
# Random wrong labels, the digit planted, the label it gets, whether a network reads them.
KINDS = ((0.0, 3, 8, False), (0.03, 2, 7, False), (0.05, 1, 7, False), (0.05, 5, 9, True))
DECAY = {False: 0.01, True: 0.005}


class Case:
    """A model trained on digits with a planted cluster, and what is clustered."""

    def __init__(self, size: int, seed: int, noise: float, source: int, target: int, network: bool):
        x, y = load_digits(return_X_y=True)
        draw = np.random.default_rng(seed)
        order = draw.permutation(len(y))
        x, y = x[order] / 16.0, y[order]
        labels = y[:1000].copy()
        own = np.flatnonzero(labels == source)
        planted = own[norm(x[own] - x[own[0]], axis=1).argsort()[:size]]
        labels[planted] = target
        others = np.setdiff1d(np.arange(1000), planted)
        wrong = draw.choice(others, round(noise * 1000), replace=False)
        labels[wrong] = (labels[wrong] + draw.integers(1, 10, len(wrong))) % 10
        self.planted = np.isin(np.arange(1000), planted)
        self.validation = (torch.tensor(x[1000:]), torch.tensor(y[1000:]))
        train = (torch.tensor(x[:1000]), torch.tensor(labels))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)] if network else [nn.Linear(64, 10)]
            start = nn.Sequential(*layers).double()
        options = {"loss": "cross_entropy", "weight_decay": DECAY[network]}
        model = wherefrom.FullBatch(start, gradient_tolerance=1e-5, **options)(train, 0).eval()
        solver = "ekfac" if network else "auto"
        self.influence = wherefrom.Influence(model, train, solver=solver, progress=False, **options).fit()
        everybody = {"all": range(1000)}
        self.harm = self.influence.slices(self.validation, everybody).harm[:, 0].double().numpy()

    def f1(self, chosen: np.ndarray) -> float:
        """Of a set of training examples against the planted ones."""
        return float(2 * (chosen & self.planted).sum() / (chosen.sum() + self.planted.sum()))

    def on_top(self, clusters: np.ndarray) -> float:
        """F1 of the cluster with the largest joint harm."""
        harms = np.bincount(clusters, self.harm)
        return self.f1(clusters == harms.argmax())

    def products(self, directions: torch.Tensor) -> np.ndarray:
        """Training gradients with these directions, `(n, k)`."""
        train = self.influence.train_gradients
        return torch.cat([inner for _, inner, _ in train.products(directions)]).double().numpy()

    def kernel(self) -> np.ndarray:
        """The influence of training examples on each other, as features: whitened gradients in the span of 64
        landmarks (Williams & Seeger 2001)."""
        fitted = self.influence
        landmarks = torch.arange(0, 1000, 1000 // LANDMARKS)[:LANDMARKS]
        between = self.products(fitted.solve(fitted.train_gradients.rows(landmarks).T).x)
        values, vectors = np.linalg.eigh(between[landmarks.numpy()])
        kept = values > 1e-8 * values.max()
        return between @ vectors[:, kept] / np.sqrt(values[kept])

    def pattern(self) -> np.ndarray:
        """Scores for 64 validation examples."""
        queries = tuple(part[:LANDMARKS] for part in self.validation)
        return self.influence.scores(queries).to_numpy().T

    def sketch(self) -> np.ndarray:
        """Projected gradients."""
        generator = torch.Generator().manual_seed(0)
        p = self.influence.objective.p
        made = torch.randn(p, LANDMARKS, generator=generator, dtype=torch.float64)
        return self.products(made / LANDMARKS**0.5)


def shortened(rows: np.ndarray, power: float) -> np.ndarray:
    return rows / np.maximum(norm(rows, axis=1, keepdims=True), 1e-300) ** power


def contestants(case: Case) -> Iterator[tuple[str, float]]:
    """F1 of each way."""
    best = np.argsort(-case.harm)[: case.planted.sum()]
    yield (
        "no clusters: the most harmful one by one, their number given",
        case.f1(np.isin(np.arange(1000), best)),
    )
    found = case.influence.harmful_groups(case.validation)
    yield "`harmful_groups`: gradient sketch, tree cut where harm differs", case.on_top(found.assignment)
    sketch, harm = case.sketch(), case.harm
    rooted = np.sign(harm) * np.sqrt(np.abs(harm))
    for power in (0.0, 0.5, 0.75, 1.0):
        tree = build_tree(shortened(sketch, power))
        yield (
            f"gradient sketch / length^{power:g}, cut where harm differs",
            case.on_top(prune(tree, rooted, least=5)),
        )
        yield f"gradient sketch / length^{power:g}, cut into 16", case.on_top(cut(tree, 16))
    tree = build_tree(shortened(sketch, 0.75))
    yield (
        "gradient sketch / length^0.75, cut where harm differs (no root of it)",
        case.on_top(prune(tree, harm, least=5)),
    )
    for clusters in (8, 12, 20):
        yield f"gradient sketch / length^0.75, cut into {clusters}", case.on_top(cut(tree, clusters))
    means = KMeans(16, n_init=5, random_state=0).fit_predict(shortened(sketch, 0.75))
    yield "gradient sketch / length^0.75, 16-means", case.on_top(means)
    for name, rows in (("influence kernel", case.kernel()), ("influence on validation", case.pattern())):
        for power in (0.0, 0.5, 1.0):
            merged = AgglomerativeClustering(16).fit_predict(shortened(rows, power))
            yield f"{name} / length^{power:g}, cut into 16", case.on_top(merged)
        tree = build_tree(shortened(rows, 0.5))
        yield f"{name} / length^0.5, cut where harm differs", case.on_top(prune(tree, rooted, least=5))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="draws of each case")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[float]] = {}
    for size in SIZES:
        for seed in range(options.seeds):
            for kind in KINDS:
                for name, value in contestants(Case(size, seed, *kind)):
                    results.setdefault(name, []).append(value)
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print("| clusters | mean F1 | worst tenth | F1 ≥ 0.8 |\n| --- | --- | --- | --- |")
    for name, values in sorted(results.items(), key=lambda item: -float(np.mean(item[1]))):
        share = np.mean(np.array(values) >= 0.8)
        print(f"| {name} | {np.mean(values):.2f} | {np.quantile(values, 0.1):.2f} | {share:.0%} |")


if __name__ == "__main__":
    main()
