"""A study: a question about a model and its data, the options it takes, and its answer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Trust
from wherefrom.report import Section
from wherefrom.studies.task import Task

Say = Callable[[str], None]
Rows = Iterable[Sequence[Any]]


def quiet(stage: str) -> None:
    """Say nothing of what is being done."""


def table_of(rows: Iterable[Mapping[str, Any]]) -> tuple[list[str], Rows]:
    """Rows that all name the same columns, at least one, as a table for a file."""
    listed = list(rows)
    return list(listed[0]), [list(row.values()) for row in listed]


def option(
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    least: int | float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a study that is an option of its command: one default, one text, in Python and on the
    command line.

    Args:
        default: of the field. A tuple is an option that may be given several times.
        help: what it does, as `--help` says it.
        flag: its name on the command line; `--` and the field's name by default.
        least: the smallest number taken.
        choices: the words taken, where there are only some.
    """
    return field(
        default=default, metadata={"help": help, "flag": flag, "least": least, "choices": tuple(choices)}
    )


@dataclass(frozen=True)
class Study(ABC):
    """A question, with its options as the fields of a frozen dataclass, each made by `option`.

    The docstring of a subclass is what `--help` says of it.

    Attributes:
        name: of the command, and of the page and the files it writes.
        question: at the head of its page.
        lead: a sentence or two below it.
        needs_fit: whether an influence function is fitted before it is asked.
        verifies: whether its verdict of retraining is of the scores themselves, and so of every later study.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    lead: ClassVar[str] = ""
    needs_fit: ClassVar[bool] = True
    verifies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for one in options_of(type(self)):
            _require(one, getattr(self, one.name))

    def check(self, task: Task) -> None:  # noqa: B027
        """Refuse before anything long what this task cannot answer.

        Raises:
            InputError: what is missing, and how to give it.
        """

    def prepared(self, task: Task) -> Task:
        """The task as it is to be fitted."""
        return task

    @abstractmethod
    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> Result:
        """The answer for a fitted model.

        Args:
            attributor: of the task's model and training data.
            task: what else is known: queries, validation set, recipe, names.
            say: called with what is being done, before it is.
        """


class Result(ABC):
    """The answer of a study: one object, from which files, page, terminal and notebook are made.

    Attributes:
        trust: how far to trust it.
    """

    trust: Trust

    def with_trust(self, trust: Trust) -> Result:
        """The same answer where more is known of its trust: the verdict that another study measured."""
        made = copy.copy(self)
        object.__setattr__(made, "trust", trust)
        return made

    @abstractmethod
    def section(self) -> Section:
        """What people see of it, with its trust at the head; no sentence says more than that."""

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Headline numbers as JSON values; the trust is added to them."""

    def tables(self) -> Mapping[str, tuple[Sequence[str], Rows]]:
        """Tables for files: by name without ending, the header and the rows."""
        return {}

    def save(self, folder: Path) -> None:  # noqa: B027
        """Write what is neither table nor summary.

        Raises:
            StoreError: a file cannot be written.
        """

    def _repr_html_(self) -> str:
        from wherefrom.report import section_html

        return section_html(self.section())


def options_of(study: type[Study]) -> list[Field[Any]]:
    """The fields that are options of its command, in order."""
    return [one for one in fields(study) if "help" in one.metadata]


def flag_of(one: Field[Any]) -> str:
    """How an option is written on the command line."""
    return one.metadata["flag"] or "--" + one.name.replace("_", "-")


def _require(one: Field[Any], value: Any) -> None:
    least, choices = one.metadata["least"], one.metadata["choices"]
    if value is None:
        return
    if choices and value not in choices:
        raise InputError(f"{one.name}={value!r}: expected one of {', '.join(map(repr, choices))}")
    if least is not None and not (isinstance(value, (int, float)) and value >= least):
        raise InputError(f"{one.name}={value!r}: expected at least {least:g}")
