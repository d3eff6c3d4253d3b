"""What people see of a task's examples: its own descriptions, or what is guessed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wherefrom.influence import Attributor
from wherefrom.report import Describer
from wherefrom.studies.task import Task


def train_cards(task: Task, attributor: Attributor) -> Describer:
    """From a training index to a card."""
    objective = attributor.objective
    return Describer(
        objective, attributor.train, objective.examples, "train", task.describe_train, task.class_names
    )


def query_cards(
    task: Task, attributor: Attributor, queries: Any, numbers: Sequence[int] | None = None
) -> Describer:
    """From an index in `queries` to a card; `numbers` are theirs among all of the task's."""
    objective = attributor.objective
    examples = objective.read(queries, role="queries")
    return Describer(
        objective,
        queries,
        examples,
        "query",
        task.describe_query,
        task.class_names,
        numbers,
        train_cards(task, attributor),
    )
