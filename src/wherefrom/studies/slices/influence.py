"""Influence of slices of the training data on slices of the queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wherefrom.influence import Attributor, Fit, Measurement, resolve_measurement
from wherefrom.influence.room import require_room_for_scores
from wherefrom.progress import progress_bar
from wherefrom.studies.slices.from_scores import groups_from_scores
from wherefrom.studies.slices.groups import queries_in_groups, resolve_groups
from wherefrom.studies.slices.sums import (
    change_of_each,
    damping_error,
    score_examples,
    score_groups,
    standard_error,
)
from wherefrom.studies.slices.table import GroupInfluence

# Score and error of one training example for one query group.
_NUMBERS = 2


def group_influence(
    attributor: Attributor,
    queries: Any,
    train_groups: Any,
    query_groups: Any = None,
    *,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
) -> GroupInfluence:
    """What each group of training examples does to each group of queries: who carries the error of whom.

    With `m̄_Q` the mean measurement of query group `Q`, the predicted change when training group `T` is
    removed is `(1/n) Σ_{i∈T} ∇m̄_Qᵀ C_λ⁻¹ g_i`: first order in the size of `T`, the weights `1/n` of the
    others kept (Koh & Liang 2017, §2.1 and §5.3; Koh et al. 2019 for how far that carries).

    One right-hand side per query group and one pass over the training set; for the standard errors one
    right-hand side per training group and one pass over the queries. No matrix of queries × training examples
    is ever made.

    Args:
        attributor: of the model; one that has scores alone, and is no influence function, is asked for all of
            them (see `groups_from_scores`).
        queries: examples, in any form the training data may have.
        train_groups: one group name per training example, or a mapping from names to indices or masks, whose
            groups may overlap.
        query_groups: the same for the queries; one group of all of them when `None`.
        measurement: what is measured on a query.

    Raises:
        InputError: other numbers of names than of examples, a missing name, an empty group, bad queries.
        OutOfMemoryError: two numbers per training example and query group do not fit.
    """
    measured = resolve_measurement(measurement, attributor.objective.loss)
    train = resolve_groups(train_groups, attributor.objective.n, "train_groups")
    if not isinstance(attributor, Fit):
        return groups_from_scores(attributor, queries, train, query_groups, measured)
    fitted = attributor
    gradients = fitted.measure_gradients(queries, measured)
    asked = queries_in_groups(query_groups, len(gradients))
    require_room_for_scores(fitted.objective, len(asked), "query groups", _NUMBERS)
    n, q, dtype = fitted.objective.n, len(asked), fitted.objective.dtype
    scores, score_error = torch.empty(n, q, dtype=dtype), torch.empty(n, q, dtype=dtype)
    change, estimate, bound = (torch.empty(len(train), q, dtype=torch.float64) for _ in range(3))
    values = fitted.objective.measured(gradients.examples, gradients.measure).double().cpu()
    converged, reasons = [], set()
    damped = 0.0
    with progress_bar("query groups", q, enabled=fitted.options.progress) as bar:
        size = fitted.pairing.block_size()
        for start in range(0, q, size):
            block = slice(start, min(start + size, q))
            members = asked.members[block]
            means = [(gradients.sum(part) / len(part)).to(dtype) for part in members]
            solution = fitted.solve(torch.stack(means, 1))
            damped = max(damped, damping_error(fitted, torch.stack(means, 1), solution))
            squares = score_examples(fitted, solution, scores[:, block], score_error[:, block])
            score_groups(
                fitted, solution, train, squares, change[:, block], estimate[:, block], bound[:, block]
            )
            converged.append(solution.converged.cpu())
            reasons.add(solution.reason)
            bar.advance(len(members))
    each = change_of_each(fitted, gradients, train)
    spread = [[standard_error(each[part, t]) for part in asked.members] for t in range(len(train))]
    return GroupInfluence(
        train=train,
        queries=asked,
        measured=torch.stack([values[part].mean() for part in asked.members]),
        change=change / n,
        error=estimate / n,
        bound=bound / n,
        standard_error=torch.tensor(spread, dtype=torch.float64),
        scores=scores,
        score_error=score_error,
        converged=torch.cat(converged),
        reason=" ".join(sorted(reason for reason in reasons if reason)),
        measurement=measured.name,
        higher_is_better=measured.higher_is_better,
        range=measured.range,
        settings={**fitted.settings(), "measurement": measured.name},
        damping_error=damped,
    )
