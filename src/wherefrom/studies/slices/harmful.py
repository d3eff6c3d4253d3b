"""Clusters of training examples that hurt a validation set together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.gradients.projected import project_gradients
from wherefrom.gradients.projections import SparseJL
from wherefrom.influence import Attributor, Fit, Measurement, as_fit, resolve_change, resolve_measurement
from wherefrom.studies.slices.clusters import HarmfulCluster, HarmfulGroups
from wherefrom.studies.slices.groups import Groups
from wherefrom.studies.slices.sums import (
    change_of_each,
    damping_error,
    score_examples,
    score_groups,
    standard_error,
)
from wherefrom.studies.slices.table import CERTAIN
from wherefrom.studies.slices.tree import build_tree, cut, prune
from wherefrom.task import as_given, class_numbers

# Components of a gradient's sketch.
_SKETCH = 64
# Rows are divided by this power of their length: directions alone forget that wrong labels have large
# gradients, lengths alone find little else.
_POWER = 0.75
# Examples in a cluster where the tree is cut by itself.
LEAST = 5


def harmful_groups(
    attributor: Attributor,
    validation: Any,
    *,
    clusters: int | Literal["auto"] = "auto",
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    seed: int | None = None,
) -> HarmfulGroups:
    """Clusters of training examples, the one whose removal is predicted to help a validation set most first.

    The training gradients, sketched to 64 numbers and divided by their length to the power 0.75, are merged
    into a tree (Ward 1963); it is cut where the harm of its branches to the validation set differs, or into
    as many clusters as asked for. Each cluster's harm is then predicted as a whole, to first order, and for
    every validation example apart.

    Args:
        attributor: a fitted influence function; other methods have no gradients to cluster.
        validation: clean examples, in any form the training data may have.
        clusters: how many; `"auto"`: where harm differs, each of five examples or more.
        measurement: what is measured on a validation example.
        seed: of the sketch; the fit's own when `None`.

    Cost: one pass over the training gradients for the sketch and one for the scores, one backward pass each
    for the sums, one solve per cluster, and a pass over the validation set. Memory: `n × 64` numbers, and a
    tree of at most 4,000 leaves: of 2,000 averages of neighbours (k-means) where there are more examples.

    Raises:
        InputError: bad validation examples, or a number of clusters outside `2..n`.
        UnsupportedError: another method.
    """
    fitted = as_fit(attributor, "harmful_groups")
    n = fitted.objective.n
    if not isinstance(clusters, str) or clusters != "auto":
        words = f"'auto' or a whole number from 2 to the {n} examples"
        clusters = whole("clusters", clusters, 2, n, expected=words)
    seed = fitted.options.seed if seed is None else whole("seed", seed)
    measured = resolve_measurement(measurement, fitted.objective.loss)
    gradients = fitted.measure_gradients(validation, measured)
    mean = gradients.mean().to(fitted.objective.dtype)
    solution = fitted.solve(mean[:, None])
    damped = damping_error(fitted, mean[:, None], solution)
    scores, errors = (torch.empty(n, 1, dtype=fitted.objective.dtype) for _ in range(2))
    squares = score_examples(fitted, solution, scores, errors)
    harm = (scores if measured.higher_is_better else -scores)[:, 0].double() / n
    tree = build_tree(_sketches(fitted, seed), seed=seed)
    size = harm.numpy()
    # Harm has heavy tails: without the root, single examples would make the cut.
    found = (
        prune(tree, np.sign(size) * np.sqrt(np.abs(size)), least=LEAST)
        if clusters == "auto"
        else cut(tree, int(clusters))
    )
    groups = _as_groups(found, n)
    now = float(fitted.objective.measured(gradients.examples, gradients.measure).double().mean())
    change, estimate, bound = (torch.empty(len(groups), 1, dtype=torch.float64) for _ in range(3))
    score_groups(fitted, solution, groups, squares, change, estimate, bound)
    each = change_of_each(fitted, gradients, groups)
    sign = 1.0 if measured.higher_is_better else -1.0
    objective = fitted.objective
    labels, asked = (class_numbers(objective, data) for data in (objective.examples, gradients.examples))
    total = harm.clamp(min=0).sum()
    made = []
    for c, members in enumerate(groups.members):
        own = each[:, c]
        error, spread = float(estimate[c, 0]) / n, standard_error(own)
        made.append(
            HarmfulCluster(
                members=members[harm[members].argsort(descending=True, stable=True)].numpy(),
                harm=sign * float(change[c, 0]) / n,
                change=float(change[c, 0]) / n,
                error=error,
                bound=float(bound[c, 0]) / n,
                standard_error=spread,
                share_of_harm=float(harm[members].clamp(min=0).sum() / total) if total > 0 else 0.0,
                labels=None if labels is None else _counts(labels[members], objective.classes),
                changes=own.numpy(),
                harm_by_label=None if asked is None else _shares(sign * own, asked, objective.classes),
                resolution=resolve_change(
                    float(change[c, 0]) / n,
                    {
                        "the solver": error,
                        "the damping": damped * abs(float(change[c, 0])) / n,
                        "the sample of validation examples": CERTAIN * spread,
                    },
                    now=now,
                    range=measured.range,
                    measurement=measured.name,
                ),
            )
        )
    made.sort(key=lambda cluster: -cluster.harm)
    return HarmfulGroups(
        clusters=tuple(made),
        harm=harm.numpy(),
        measured=now,
        converged=bool(solution.converged.all()),
        reason=solution.reason,
        measurement=measured.name,
        higher_is_better=measured.higher_is_better,
        settings={
            **fitted.settings(),
            "measurement": measured.name,
            "clusters": clusters,
            "cluster_seed": seed,
        },
    )


def _sketches(fitted: Fit, seed: int) -> Float[np.ndarray, "n k"]:
    """Training gradients, projected at random and shortened."""
    train = fitted.train_gradients
    projected = project_gradients(
        fitted.engine,
        train.examples,
        train.measure,
        SparseJL(_SKETCH, seed),
        progress=fitted.options.progress,
    )
    values = projected.values.double().cpu()
    length = values.norm(dim=1, keepdim=True)
    # An example without a gradient stays at the origin.
    return (values / torch.where(length > 0, length**_POWER, 1.0)).numpy()


def _as_groups(found: np.ndarray, n: int) -> Groups:
    numbers = np.unique(found)
    members = tuple(torch.from_numpy(np.flatnonzero(found == number)) for number in numbers)
    return Groups(tuple(str(number) for number in range(len(numbers))), members, n, "clusters")


def _counts(labels: Tensor, classes: tuple[Any, ...] | None) -> dict[str, int]:
    """How often each label occurs, the most frequent first."""
    values, counts = labels.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    return {str(as_given(int(values[i]), classes)): int(counts[i]) for i in order}


def _shares(harm: Tensor, labels: Tensor, classes: tuple[Any, ...] | None) -> dict[str, float]:
    """The share of the harm done to the examples of each label, the largest first; none without harm."""
    hurt = harm.clamp(min=0)
    values = labels.unique()
    sums = torch.stack([hurt[labels == value].sum() for value in values])
    if not float(sums.sum()) > 0:
        return {}
    order = sums.argsort(descending=True, stable=True)
    shares = {int(values[i]): float(sums[i] / sums.sum()) for i in order if float(sums[i]) > 0}
    return {str(as_given(value, classes)): share for value, share in shares.items()}
