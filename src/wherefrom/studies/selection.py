"""Which examples a command looks at where there are too many: those of largest loss."""

from __future__ import annotations

from typing import Any

from wherefrom.influence import Attributor
from wherefrom.task import Data, Examples, check_examples


def choose_queries(attributor: Attributor, queries: Any, count: int) -> tuple[Any, list[int]]:
    """At most `count` queries, those of largest loss, in their own order, with their numbers among all."""
    objective = attributor.objective
    examples = objective.read(queries, role="queries")
    check_examples(objective, examples, progress=False)
    if len(examples) <= count:
        return queries, list(range(len(examples)))
    chosen = largest_losses(attributor, examples, count)
    others = sorted(set(range(len(examples))) - set(chosen))
    return Data(queries, len(examples)).edited(drop=others), chosen


def largest_losses(attributor: Attributor, examples: Examples, count: int) -> list[int]:
    """The `count` examples of largest loss, in their own order."""
    objective = attributor.objective
    if len(examples) <= count:
        return list(range(len(examples)))
    losses = objective.measured(examples, objective.loss)
    return sorted(losses.argsort(descending=True, stable=True)[:count].tolist())


def spread_queries(attributor: Attributor, queries: Any, count: int) -> tuple[Any, list[int]]:
    """At most `count` queries, spread evenly over all, with their numbers: a fair sample for a share."""
    objective = attributor.objective
    examples = objective.read(queries, role="queries")
    if len(examples) <= count:
        return queries, list(range(len(examples)))
    chosen = examples.spread(count)
    others = sorted(set(range(len(examples))) - set(chosen))
    return Data(queries, len(examples)).edited(drop=others), chosen
