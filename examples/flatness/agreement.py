"""How well influence agrees with retraining: of the same recipe from the start; from minimum to minimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from replicas import Recipe, train_replicas
from scipy import stats
from small_images import ImageSet
from small_networks import loss_and_accuracy
from torch import Tensor, nn

import wherefrom
from wherefrom.curvature import choose_curvature
from wherefrom.errors import NotPositiveDefiniteError
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import estimate_trace, extreme_eigenpairs
from wherefrom.task import Objective

LOSS = "cross_entropy"
Data = tuple[Tensor, Tensor]


def study(
    recipe: Recipe, kind: str, images: ImageSet, seed: int, *, singles: int, groups: int, queries: int
) -> dict[str, Any]:
    """Train, predict what removals do to the losses of test images, and do it.

    Removed are, each alone, the `singles` training images of the largest predicted effect, and `groups`
    random twentieths of the training set. Two truths: *recipe*, the same training again from the same start
    with the same batches (influence with the Gauss-Newton matrix, at the network as it was trained); and
    *minimum*, where the network is first brought to the nearest minimum of the unpenalised objective and
    retrained from there to the minimum nearby (influence with the Hessian).

    Returns:
        Losses, accuracy, `λ_max` and trace of the trained network's Hessian, and for either truth the Pearson
        and Spearman correlation and slope over all pairs of removal and test image.
    """
    data, test = _double(images.train), _double(images.test)
    asked = (test[0][:queries], test[1][:queries])
    n = len(data[1])
    (model,) = train_replicas(recipe, kind, data, torch.ones(1, n, dtype=torch.float64), seed)
    influence = _influence(model, data, recipe, "ggn")
    removals = _removals(influence, asked, n, seed, singles, groups)
    row = {**_summary(model, data, test), "singles": singles, "groups": groups}
    row["recipe"] = _retrain_by_recipe(influence, recipe, kind, data, asked, removals, seed)
    row["minimum"] = _retrain_from_minimum(model, recipe, data, asked, removals)
    return row


def _removals(
    influence: wherefrom.Influence, asked: Data, n: int, seed: int, singles: int, groups: int
) -> dict[str, list[list[int]]]:
    effect = influence.scores(asked).values.double()
    alone = effect.sub(effect.mean(1, keepdim=True)).norm(dim=0).topk(singles).indices
    generator = np.random.default_rng(seed)
    drawn = [sorted(generator.choice(n, size=n // 20, replace=False).tolist()) for _ in range(groups)]
    return {"single": [[int(i)] for i in alone], "group": drawn}


def _retrain_by_recipe(
    influence: wherefrom.Influence,
    recipe: Recipe,
    kind: str,
    data: Data,
    asked: Data,
    removals: dict[str, list[list[int]]],
    seed: int,
) -> dict[str, Any]:
    every = [rows for of_kind in removals.values() for rows in of_kind]
    weights = torch.ones(1 + len(every), len(data[1]), dtype=torch.float64)
    for replica, rows in enumerate(every, start=1):
        weights[replica, rows] = 0.0
    models = train_replicas(recipe, kind, data, weights, seed)
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(m(asked[0]), asked[1], reduction="none") for m in models]
    actual = iter([(loss - losses[0]).numpy() for loss in losses[1:]])
    return {
        name: _agreement(
            [
                influence.remove(rows).change(asked, order="first", reduction="sum").values.double().numpy()
                for rows in chosen
            ],
            [next(actual) for _ in chosen],
        )
        for name, chosen in removals.items()
    }


def _retrain_from_minimum(
    model: nn.Module, recipe: Recipe, data: Data, asked: Data, removals: dict[str, list[list[int]]]
) -> dict[str, Any]:
    def full_batch(start: nn.Module) -> wherefrom.FullBatch:
        return wherefrom.FullBatch(
            start,
            loss=LOSS,
            weight_decay=recipe.weight_decay,
            divide_by=len(data[1]),
            gradient_tolerance=1e-6,
        )

    minimum = full_batch(model)(data, 0).eval()
    found: dict[str, Any] = _summary(minimum, data, asked)
    try:
        influence = _influence(minimum, data, recipe, "hessian")
    except NotPositiveDefiniteError as error:
        return {**found, "refused": str(error)}
    for name, chosen in removals.items():
        outcomes = [
            influence.remove(rows).retrain(full_batch(minimum), asked, order="first", reduction="sum")
            for rows in chosen
        ]
        done = [outcome for outcome in outcomes if outcome.seeds]
        found[name] = _agreement([o.predicted for o in done], [o.actual for o in done])
    return found


def _agreement(predicted: list[np.ndarray], actual: list[np.ndarray]) -> dict[str, float]:
    a, b = np.concatenate(predicted), np.concatenate(actual)
    return {
        "pearson": float(stats.pearsonr(a, b).statistic),
        "spearman": float(stats.spearmanr(a, b).statistic),
        "slope": float(a @ b / (a @ a)),
        "removals": len(predicted),
    }


def _summary(model: nn.Module, data: Data, test: Data) -> dict[str, float]:
    engine = GradientEngine(Objective(model, data, loss=LOSS))
    hessian = choose_curvature(engine, "hessian", hvp_mode="reverse_over_reverse").data
    return {
        "train_loss": loss_and_accuracy(model, data)[0],
        "test_loss": loss_and_accuracy(model, test)[0],
        "test_accuracy": loss_and_accuracy(model, test)[1],
        "largest": float(extreme_eigenpairs(hessian, 1, tolerance=1e-3, max_products=150).values[0]),
        "trace": estimate_trace(hessian, products=60).value,
    }


def _influence(model: nn.Module, data: Data, recipe: Recipe, curvature: str) -> wherefrom.Influence:
    return wherefrom.Influence(
        model,
        data,
        loss=LOSS,
        weight_decay=recipe.weight_decay,
        curvature=curvature,
        solver="exact",
        damping=0.0,
        hvp_mode="reverse_over_reverse",
        progress=False,
    ).fit()


def _double(data: Data) -> Data:
    return data[0].double(), data[1]
