"""Handwritten digits: two models trained on the spot, and the test digits each of them misreads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from wherefrom.evaluation import FullBatch
from wherefrom.report import Card

_WEIGHT_DECAY = 0.01
# Removing one example moves the gradient by about 1e-3 of its typical size: both tolerances are far below.
_CONVEX_TOLERANCE = 1e-6
_MLP_TOLERANCE = 1e-5


def digits_tasks(
    *,
    n_train: int = 1000,
    n_queries: int = 6,
    hidden: int = 32,
    softmax_removals: int = 40,
    mlp_removals: int = 25,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Two audit tasks, each a dict as a task file's `task()` returns it.

    The data are scikit-learn's digits (8 × 8 pixels, UCI Optical Recognition of Handwritten Digits), split at
    random. Both models are trained to a minimum of cross-entropy with weight decay; the queries are the test
    digits that the model misreads most surely.

    Args:
        n_train: training digits; the rest of the 1,797 are for testing.
        n_queries: misread digits asked about.
        hidden: units of the MLP.
        softmax_removals, mlp_removals: retrainings of each model.
        seed: of the split and of the MLP's initialisation.
    """
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    x, y = torch.as_tensor(images / 16.0)[order], torch.as_tensor(labels)[order]
    train, test = (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear: nn.Module = nn.Linear(64, 10)
        mlp: nn.Module = nn.Sequential(nn.Linear(64, hidden), nn.Tanh(), nn.Linear(hidden, 10))
    return [
        _task("Softmax regression", linear, train, test, _CONVEX_TOLERANCE, n_queries, softmax_removals),
        _task(f"MLP, 64-{hidden}-10 tanh", mlp, train, test, _MLP_TOLERANCE, n_queries, mlp_removals),
    ]


def _task(
    name: str,
    model: nn.Module,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    tolerance: float,
    queries: int,
    remove: int,
) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "loss": "cross_entropy",
        "weight_decay": _WEIGHT_DECAY,
        "gradient_tolerance": tolerance,
    }
    trained = FullBatch(model, **shared)(train, 0).eval()
    with torch.no_grad():
        probabilities = trained(test[0]).softmax(1)
    misread = (probabilities.argmax(1) != test[1]).nonzero()[:, 0]
    surest = misread[probabilities[misread].max(1).values.argsort(descending=True, stable=True)][:queries]
    accuracy = 1 - len(misread) / len(test[1])
    return {
        "name": name,
        "model": trained,
        "train": train,
        "queries": (test[0][surest], test[1][surest]),
        "loss": "cross_entropy",
        "weight_decay": _WEIGHT_DECAY,
        "dtype": torch.float64,
        "recipe": FullBatch(trained, warm_start=True, **shared),
        "remove": remove,
        "describe_train": _describe(train[0], "train", range(len(train[0]))),
        "describe_query": _describe(test[0], "test digit", surest.tolist()),
        "facts": [
            ("Test accuracy", f"{accuracy:.1%}"),
            ("Test digits misread", f"{len(misread)} of {len(test[1])}"),
        ],
    }


def _describe(pixels: Tensor, title: str, numbers: Any) -> Callable[[int], Card]:
    def card(i: int) -> Card:
        return Card(f"{title} {numbers[i]}", image=pixels[numbers[i]].reshape(8, 8).numpy())

    return card
