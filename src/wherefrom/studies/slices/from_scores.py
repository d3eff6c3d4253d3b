"""What groups of training examples do to groups of queries, from scores alone."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.influence import Attributor, Measurement
from wherefrom.influence.measurements import measured_now
from wherefrom.studies.slices.groups import Groups, queries_in_groups
from wherefrom.studies.slices.sums import standard_error
from wherefrom.studies.slices.table import GroupInfluence


def groups_from_scores(
    attributor: Attributor, queries: Any, train: Groups, query_groups: Any, measured: Measurement
) -> GroupInfluence:
    """The table for an attributor that gives no gradients: scores are summed over the training group and
    averaged over the query group. Errors of single scores are added up, as nothing says how far they cancel.

    Args:
        attributor, queries, query_groups, measured: as of `group_influence`.
        train: the training groups.
    """
    examples = attributor.objective.read(queries, role="queries")
    asked = queries_in_groups(query_groups, len(examples))
    values = measured_now(attributor.objective, examples, measured).double()
    scores = attributor.scores(queries, measured)
    n = attributor.objective.n
    mean = torch.stack([scores.values[part].double().mean(0) for part in asked.members], dim=1)  # (n, Q)
    error = torch.stack([scores.error[part].double().mean(0) for part in asked.members], dim=1)
    each = torch.stack([scores.values[:, part].double().sum(1) for part in train.members], dim=1) / n
    spread = [[standard_error(each[part, t]) for part in asked.members] for t in range(len(train))]
    return GroupInfluence(
        train=train,
        queries=asked,
        measured=torch.stack([values[part].mean() for part in asked.members]),
        change=_summed(mean, train) / n,
        error=_summed(error, train) / n,
        bound=torch.full((len(train), len(asked)), torch.inf, dtype=torch.float64),
        standard_error=torch.tensor(spread, dtype=torch.float64),
        scores=mean.to(scores.values.dtype),
        score_error=error.to(scores.values.dtype),
        converged=torch.stack([scores.converged[part].all() for part in asked.members]),
        reason=scores.reason,
        measurement=scores.measurement,
        higher_is_better=scores.higher_is_better,
        range=measured.range,
        settings=dict(scores.settings),
        estimand=scores.estimand,
    )


def _summed(values: Float[Tensor, "n q"], train: Groups) -> Float[Tensor, "t q"]:
    return torch.stack([values[part].sum(0) for part in train.members])
