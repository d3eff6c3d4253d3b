"""Interventions of every kind on small problems, with the edited data and weights written out beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.support import Plain, digits, half_square, seeded, small_mlp, softmax_regression
from wherefrom import Influence
from wherefrom.interventions import Intervention

Edited = tuple[Tensor, Tensor, Tensor]  # inputs, targets, how often each counts

GONE, RELABELLED, HEAVY, MOVED, SWAPPED = [4, 17], [9], [11, 12], [20], [30]


@functools.lru_cache
def convex() -> Plain:
    return softmax_regression(90, classes=3, decay=0.03)


@functools.lru_cache
def network() -> Plain:
    return small_mlp(60, decay=0.02)


@functools.lru_cache
def ridge() -> Plain:
    x, y = digits(60, classes=3, pool=2)
    targets = torch.stack([y.double(), (y == 1).double()], dim=1)
    return Plain(seeded(lambda: nn.Linear(16, 2)), half_square, (x, targets), 0.05).trained()


def queries(count: int = 12) -> tuple[Tensor, Tensor]:
    return digits(count, start=300, classes=3, pool=2)


def fit(plain: Plain, loss: str = "cross_entropy", **options: Any) -> Influence:
    options = {"weight_decay": float(plain.decay[0]), "damping": 0.0, "curvature": "hessian", **options}
    return Influence(plain.model, (plain.x, plain.y), loss=loss, progress=False, **options).fit()


def _other(y: Tensor) -> Tensor:
    """Another target than `y`, of the same kind."""
    return 1.0 - y if y.is_floating_point() else (y + 1) % 3


def edit(kind: str, influence: Influence, plain: Plain) -> tuple[Intervention, Edited]:
    """The intervention `kind`, and what it means: data and weights made by hand."""
    x, y, weights = plain.x.clone(), plain.y.clone(), torch.ones(plain.n, dtype=torch.float64)
    delta = 0.3 * torch.sin(torch.arange(x.shape[1], dtype=torch.float64))
    new_x, new_y = x[:3].flip(1), _other(y[:3])
    makers: dict[str, Callable[[], Intervention]] = {
        "remove": lambda: influence.remove(GONE),
        "upweight": lambda: influence.upweight(HEAVY, 2.5),
        "relabel": lambda: influence.relabel(RELABELLED, _other(y[RELABELLED])),
        "replace": lambda: influence.replace(SWAPPED, (new_x[:1], new_y[:1])),
        "add": lambda: influence.add((new_x, new_y)),
        "perturb": lambda: influence.perturb(MOVED, delta),
        "all of them": lambda: (
            influence.remove(GONE)
            .relabel(RELABELLED, _other(y[RELABELLED]))
            .upweight(HEAVY, 2.5)
            .perturb(MOVED, delta)
            .replace(SWAPPED, (new_x[:1], new_y[:1]))
            .add((new_x, new_y))
        ),
    }
    made = makers[kind]()
    everything = kind == "all of them"
    if everything or kind == "remove":
        weights[GONE] = 0
    if everything or kind == "upweight":
        weights[HEAVY] = 2.5
    if everything or kind == "relabel":
        y[RELABELLED] = _other(y[RELABELLED])
    if everything or kind == "perturb":
        x[MOVED] += delta
    if everything or kind == "replace":
        x[SWAPPED], y[SWAPPED] = new_x[:1], new_y[:1]
    if everything or kind == "add":
        x, y = torch.cat([x, new_x]), torch.cat([y, new_y])
        weights = torch.cat([weights, torch.ones(3, dtype=torch.float64)])
    return made, (x, y, weights)


KINDS = ["remove", "upweight", "relabel", "replace", "add", "perturb", "all of them"]


def retrained(plain: Plain, edited: Edited, reduction: str, *, newton: int = 8) -> Tensor:
    """The parameters after training on the edited data, from those of the given model."""
    x, y, weights = edited
    total = float(weights.sum()) if reduction == "mean" else float(plain.n)
    changed = Plain(plain.model, plain.loss, (x, y), plain.decay)
    return changed.minimise(weights / total, start=plain.theta, newton=newton)


def actual_change(
    plain: Plain, edited: Edited, reduction: str, data: tuple[Tensor, Tensor], **options: Any
) -> Tensor:
    """Of the queries' losses, by retraining."""
    theta = retrained(plain, edited, reduction, **options)
    return plain.losses(theta, data) - plain.losses(plain.theta, data)
