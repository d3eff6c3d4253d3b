"""The edits of a command line, read and checked against the data before anything is fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from wherefrom.errors import InputError
from wherefrom.influence import check_indices
from wherefrom.interventions.edits import Edits, relabel, remove, upweight
from wherefrom.losses import CrossEntropy, Logistic, SmoothHinge, resolve_loss
from wherefrom.report.describe import label_text
from wherefrom.studies.change.edit_words import parse_indices, parse_label, parse_pair, parse_times
from wherefrom.studies.task import Task
from wherefrom.task import Data

# What makes each kind of edit, and what that is told of the training set.
_EDITS: dict[str, tuple[Callable[..., Edits], Callable[[Data], Any]]] = {
    "remove": (remove, lambda data: data.n),
    "relabel": (relabel, lambda data: data),
    "upweight": (upweight, lambda data: data.n),
}


@dataclass(frozen=True)
class AskedEdit:
    """An edit as it was written, see `wherefrom.studies.change.edit_words`.

    Attributes:
        kind: a method of `Intervention`.
        indices: of training examples.
        values: what the method takes besides.
        done: to each of them, in words.
        text: as written.
    """

    kind: str
    indices: list[int]
    values: tuple[Any, ...]
    done: str
    text: str


def asked_edits(
    task: Task, removed: tuple[str, ...], relabelled: tuple[str, ...], upweighted: tuple[str, ...]
) -> list[AskedEdit]:
    """What was written, read with the task's names of classes.

    Raises:
        InputError: text that is no edit, or an unknown label.
    """
    loss, names = resolve_loss(task.loss), task.class_names
    made = [AskedEdit("remove", parse_indices(text, "--remove"), (), "removed", text) for text in removed]
    for text in relabelled:
        indices, word = parse_pair(text, "--relabel", "5=3")
        label = parse_label(word, names, signed=isinstance(loss, (Logistic, SmoothHinge)))
        if isinstance(loss, CrossEntropy) and names is not None and not 0 <= label < len(names):
            raise InputError(
                f"--relabel {text}: {word} is none of the {len(names)} classes; expected 0 to "
                f"{len(names) - 1}, or one of {', '.join(map(str, names))}"
            )
        done = f"relabelled {label_text(torch.tensor([label]), names, loss)}"
        made.append(AskedEdit("relabel", indices, (label,), done, text))
    for text in upweighted:
        indices, word = parse_pair(text, "--upweight", "8=2")
        times = parse_times(word)
        made.append(AskedEdit("upweight", indices, (times,), f"counts {times:g} times", text))
    return made


def check_edits(asked: list[AskedEdit], data: Data) -> None:
    """Refuse edits that cannot be made of this training set.

    Raises:
        InputError: an index outside the training set or named twice, a label that the examples cannot hold,
            two edits of one example.
    """
    made = Edits()
    for one in asked:
        try:
            check_indices(one.indices, data.n)
        except InputError as error:
            raise InputError(f"--{one.kind} {one.text}: {error}") from error
        edit, size = _EDITS[one.kind]
        made = made.and_then(edit(one.indices, *one.values, size(data)))
