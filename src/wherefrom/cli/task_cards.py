"""What people see of a task's examples: its own descriptions, or what is guessed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wherefrom.api import Influence
from wherefrom.cli.task_file import AuditTask
from wherefrom.report import Describer


def train_cards(task: AuditTask, influence: Influence) -> Describer:
    """From a training index to a card."""
    objective = influence.objective
    return Describer(
        objective, task.train, objective.examples, "train", task.describe_train, task.class_names
    )


def query_cards(
    task: AuditTask, influence: Influence, queries: Any, numbers: Sequence[int] | None = None
) -> Describer:
    """From an index in `queries` to a card; `numbers` are theirs among all of the task's."""
    objective = influence.objective
    examples = objective.read(queries, role="queries")
    return Describer(
        objective,
        queries,
        examples,
        "query",
        task.describe_query,
        task.class_names,
        numbers,
        train_cards(task, influence),
    )
