"""The edits of a command line, read and checked against the data before anything is fitted."""

from __future__ import annotations

from collections.abc import Sequence

from wherefrom.errors import InputError
from wherefrom.influence import check_indices
from wherefrom.interventions.edits import Edits, relabel, remove, upweight
from wherefrom.losses import CrossEntropy, Logistic, SmoothHinge, resolve_loss
from wherefrom.studies.change.edit_words import parse_indices, parse_label, parse_pair, parse_times
from wherefrom.studies.task import Task
from wherefrom.task import Data


def check_edits(
    task: Task, removed: Sequence[str], relabelled: Sequence[str], upweighted: Sequence[str]
) -> None:
    """Refuse edits that cannot be made.

    Args:
        task: its data and names of classes.
        removed, relabelled, upweighted: as written, see `wherefrom.studies.change.edit_words`.

    Raises:
        InputError: text that is no edit, an index outside the training set or named twice, an unknown label,
            one that the examples cannot hold, two edits of one example.
    """
    loss, data = resolve_loss(task.loss), Data(task.train)
    made = Edits()
    for text in removed:
        made = made.and_then(
            remove(_within(parse_indices(text, "--remove"), "--remove", text, data.n), data.n)
        )
    for text in relabelled:
        indices, word = parse_pair(text, "--relabel", "5=3")
        label = parse_label(word, task.class_names, signed=isinstance(loss, (Logistic, SmoothHinge)))
        names = task.class_names
        if isinstance(loss, CrossEntropy) and names is not None and not 0 <= label < len(names):
            raise InputError(
                f"--relabel {text}: {word} is none of the {len(names)} classes; expected 0 to "
                f"{len(names) - 1}, or one of {', '.join(map(str, names))}"
            )
        made = made.and_then(relabel(_within(indices, "--relabel", text, data.n), label, data))
    for text in upweighted:
        indices, word = parse_pair(text, "--upweight", "8=2")
        made = made.and_then(
            upweight(_within(indices, "--upweight", text, data.n), parse_times(word), data.n)
        )


def _within(indices: list[int], option: str, text: str, n: int) -> list[int]:
    try:
        check_indices(indices, n)
    except InputError as error:
        raise InputError(f"{option} {text}: {error}") from error
    return indices
