"""What a study is asked about: a model, its data, and what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from wherefrom.errors import InputError
from wherefrom.evaluation import Recipe
from wherefrom.influence import Attributor, Fit
from wherefrom.interventions import Intervention
from wherefrom.report import Describe


@dataclass(frozen=True)
class Task:
    """A model, its data, and what is known of them: what a study is asked about.

    Attributes:
        name: of the model, for the page.
        model, train, queries, loss: as for `Influence`.
        make: `Influence`, which lies above the studies and has them as methods.
        recipe: `recipe(train, seed) -> model`; without it nothing is retrained.
        measurement: what is measured on a query.
        seeds, reduction: of the retraining, as for `Influence.verify`.
        remove: examples left out, each alone; the command line's choice wins.
        describe_train, describe_query: from an index to a card.
        class_names: names of the classes.
        validation: examples whose loss tells harm from help, for `wherefrom labels` and harmful groups.
        train_groups, query_groups: the name of the group each example belongs to, for `wherefrom slices`.
        attack: options of `wherefrom attack`, by name.
        change: `change(influence) -> Intervention`, for `wherefrom change`: edits that a command line cannot
            write, such as new content.
        learning_rate: of the gradient descent that trained the model; `wherefrom spectrum` compares the
            sharpness with it.
        facts: `(name, value)` for the head of the page.
        options: further arguments of `Influence`.
        attributor: used instead of an `Influence` of model and training data.
    """

    name: str
    model: Any
    train: Any
    queries: Any
    loss: Any
    make: Callable[..., Fit]
    recipe: Recipe | None = None
    measurement: Any = "loss"
    seeds: Sequence[int] = (0,)
    reduction: Literal["mean", "sum"] = "mean"
    remove: int | None = None
    describe_train: Describe | None = None
    describe_query: Describe | None = None
    class_names: Sequence[str] | None = None
    validation: Any = None
    train_groups: Sequence[Any] | None = None
    query_groups: Sequence[Any] | None = None
    attack: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[Any], Intervention] | None = None
    learning_rate: float | None = None
    facts: Sequence[tuple[str, str]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    attributor: Attributor | None = None

    def attributor_of(
        self,
        *,
        solver: str | None = None,
        progress: bool = True,
        run_dir: Path | None = None,
        fitted: bool = True,
    ) -> Attributor:
        """The task's own attributor, or its fitted influence function, with another solver if one is named.

        Raises:
            InputError: a solver for an attributor that has none.
        """
        if self.attributor is not None:
            if solver is not None:
                raise InputError(
                    f"--solver {solver}: the task {self.name!r} gives its own attributor "
                    f"({self.attributor.method}), which takes no solver. Leave --solver out."
                )
            self.attributor.run_dir, self.attributor.progress = run_dir, progress
            return self.attributor
        given = {**self.options, **({} if solver is None else {"solver": solver})}
        made: Fit = self.make(
            self.model, self.train, loss=self.loss, progress=progress, run_dir=run_dir, **given
        )
        return made.fit() if fitted else made
