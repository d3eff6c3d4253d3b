"""The form in which a user writes examples and labels, where it is not what the model reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


def as_given(number: int, classes: tuple[Any, ...] | None) -> Any:
    """A class number as the user writes that label, where the user's labels are something else."""
    return number if classes is None else classes[number]


class DataForm(ABC):
    """Turns data as the user writes them into what the model reads, and knows the user's labels.

    Attributes:
        classes: the user's labels in the order of the class numbers; `None` where there are no classes.
    """

    classes: tuple[Any, ...] | None

    @abstractmethod
    def columns(self, data: Any, role: str) -> Any:
        """The same data in the one form of the training set, labels as the user writes them."""

    @abstractmethod
    def read(self, data: Any, role: str) -> Any:
        """What the model and the loss read."""

    @abstractmethod
    def labels(self, labels: Any, name: str) -> Any:
        """Labels of edits, each as `classes` writes it; refused if it is none of them."""
