"""Which examples a command looks at where there are too many: those of largest loss, or spread over all."""

from __future__ import annotations

from typing import Any

from wherefrom.influence import Attributor
from wherefrom.task import Data, Examples, check_examples


def choose_queries(attributor: Attributor, queries: Any, count: int) -> tuple[Any, list[int]]:
    """At most `count` queries, those of largest loss, in their own order, with their numbers among all."""
    examples = attributor.objective.read(queries, role="queries")
    check_examples(attributor.objective, examples, progress=False)
    return _part(queries, examples, largest_losses(attributor, examples, count))


def spread_queries(attributor: Attributor, queries: Any, count: int) -> tuple[Any, list[int]]:
    """At most `count` queries, spread evenly over all, with their numbers: a fair sample for a share."""
    examples = attributor.objective.read(queries, role="queries")
    return _part(queries, examples, examples.spread(min(count, len(examples))))


def largest_losses(attributor: Attributor, examples: Examples, count: int) -> list[int]:
    """The `count` examples of largest loss, in their own order."""
    objective = attributor.objective
    if len(examples) <= count:
        return list(range(len(examples)))
    losses = objective.measured(examples, objective.loss)
    return sorted(losses.argsort(descending=True, stable=True)[:count].tolist())


def _part(queries: Any, examples: Examples, chosen: list[int]) -> tuple[Any, list[int]]:
    n = len(examples)
    return (queries if len(chosen) == n else Data(queries, n).reordered(chosen)), chosen
