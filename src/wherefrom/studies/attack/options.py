"""What an attack is asked to do: choices of the command line, of the task file, the defaults; the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wherefrom.errors import InputError
from wherefrom.influence.continuous_input import ContinuousInput
from wherefrom.report.cards import is_image
from wherefrom.report.numbers import number
from wherefrom.studies.attack import Budget
from wherefrom.studies.task import Task
from wherefrom.task import Objective

# What a task file may set by `attack = {...}`, beside the fields of `AttackOptions`.
_BUDGET = ("low", "high", "levels", "grid")
_LEVELS = 256
# Ranges of the values of pictures.
_USUAL = ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))


@dataclass(frozen=True)
class AttackOptions:
    """What the command line or the task file chooses, and the defaults.

    Attributes:
        edits: numbers of edited training examples that are tried.
        budget: largest change, in grey levels of 256 between the ends of the valid range; a `Budget` in a
            task file says it all.
        norm: `"linf"` or `"l2"`.
        steps: of each attack, at most.
        queries: queries attacked, spread over those given.
        together: attack all of them at once, with the largest of `edits`.
        more: other settings of the task file: `low`, `high`, `levels`, `grid`, `step_size`, `candidates`,
            `refit_every`.
    """

    edits: tuple[int, ...] = (1, 2, 10)
    budget: float | int | Budget = 0.5
    norm: str = "linf"
    steps: int = 40
    queries: int = 100
    together: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


_OWN = ("edits", "budget", "norm", "steps", "queries", "together")
_MORE = (*_BUDGET, "step_size", "candidates", "refit_every")


def settled(task: Task, asked: Mapping[str, Any]) -> AttackOptions:
    """The command line's choices over the task file's, and those over the defaults.

    Args:
        task: with its `attack`.
        asked: fields of `AttackOptions` by name, `None` where the command line chooses nothing.

    Raises:
        InputError: an unknown name in the task file's `attack`, or a value out of range.
    """
    unknown = sorted(set(task.attack) - {*_OWN, *_MORE})
    if unknown:
        raise InputError(
            f"attack= of the task gives {', '.join(map(repr, unknown))}; expected only "
            f"{', '.join((*_OWN, *_MORE))}"
        )
    named = (*task.attack.items(), *asked.items())
    given = {name: value for name, value in named if value is not None}
    chosen = {**vars(AttackOptions()), **{name: given[name] for name in _OWN if name in given}}
    edits = chosen["edits"]
    chosen["edits"] = (edits,) if isinstance(edits, int) else edits
    if not (
        isinstance(chosen["edits"], Sequence) and chosen["edits"] and all(map(_is_count, chosen["edits"]))
    ):
        raise InputError(f"edits={edits!r}: expected numbers of training examples, each at least 1")
    chosen["edits"] = tuple(chosen["edits"])
    if chosen["norm"] not in ("linf", "l2"):
        raise InputError(f"norm={chosen['norm']!r}: expected 'linf' or 'l2'")
    for name in ("queries", "steps"):
        if not _is_count(chosen[name]):
            raise InputError(f"{name}={chosen[name]!r}: expected a whole number, at least 1")
    chosen["more"] = {name: task.attack[name] for name in _MORE if name in task.attack}
    _require_budget(chosen["budget"], chosen["more"], given)
    return AttackOptions(**chosen)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _require_budget(budget: Any, more: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """A budget that is no number, or that others of the options contradict, is refused.

    Args:
        budget, more: as they will be used.
        given: what the command line and the task file say.
    """
    if isinstance(budget, Budget):
        beside = [name for name in (*_BUDGET, "norm") if given.get(name) is not None]
        if beside:
            raise InputError(
                f"budget= of the task is a Budget, which says all; beside it {', '.join(beside)} would be "
                "ignored. Leave them out, or give budget= as a number of grey levels"
            )
    elif isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise InputError(f"budget={budget!r}: expected a number of grey levels, or a Budget")
    levels = more.get("levels", _LEVELS)
    if not _is_count(levels):
        raise InputError(f"levels={levels!r}: expected a whole number of grey levels, at least 2")
    size = more.get("step_size")
    if size is not None and (isinstance(size, bool) or not isinstance(size, (int, float))):
        raise InputError(f"step_size={size!r}: expected a number above 0, in the unit of the budget")


def make_budget(objective: Objective, where: ContinuousInput, options: AttackOptions) -> tuple[Budget, str]:
    """The budget asked for, in grey levels between the ends of the valid range, and a remark on that range
    where it is not given: it is then from the smallest to the largest value of the training inputs.

    Edits that keep an 8-bit picture the same are made only where the grid of grey levels is known: a range
    that is given, or pictures from 0 to 1, 0 to 255 or −1 to 1.
    """
    if isinstance(options.budget, Budget):
        return options.budget, ""
    low, high = options.more.get("low"), options.more.get("high")
    levels, grid = options.more.get("levels", _LEVELS), options.more.get("grid")
    known, remark = True, ""
    picture = is_image(where.read(objective.examples.batch([0]))[0].detach().cpu().double().numpy())
    if low is None or high is None:
        ends = []
        for _, batch in objective.examples.batches(objective.pass_size):
            x = where.read(batch)
            ends.append((float(x.min()), float(x.max())))
        low = min(end[0] for end in ends) if low is None else low
        high = max(end[1] for end in ends) if high is None else high
        if isinstance(low, (int, float)) and isinstance(high, (int, float)):
            known = picture and (low, high) in _USUAL
            step = "grey level" if known else "step"
            remark = (
                f"Valid range as found in the training inputs: {number(low)} to {number(high)}, of which a "
                f"{step} is 1/{levels - 1}; the task's attack may set low and high."
            )
    if grid is None:
        # Whether the originals lie on the grid is known only for pictures that say so.
        small = options.norm == "linf" and float(options.budget) <= 0.5
        grid = "same" if small and known else "free"
    budget = Budget.grey_levels(
        options.budget,
        norm=options.norm,  # type: ignore[arg-type]
        low=low,
        high=high,
        levels=levels,
        pictures=picture and known,
        grid=grid,  # type: ignore[arg-type]
    )
    return budget, remark
