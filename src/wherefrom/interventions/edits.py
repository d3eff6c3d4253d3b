"""An intervention on the training set as data: which examples weigh otherwise, read otherwise, or are new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wherefrom.arguments import number
from wherefrom.errors import InputError
from wherefrom.influence.scores import check_indices
from wherefrom.plain_text import count_of
from wherefrom.task import Data, inputs_of, target_of, with_inputs, with_target

Indices = Sequence[int] | Tensor | np.ndarray


@dataclass(frozen=True)
class Edits:
    """A set of changes of weight or content of training examples.

    Attributes:
        weights: by training index, how many times the example now counts: 0 is removed, 1 unchanged.
        contents: by training index, the item that stands in its place.
        added: items that are new.
        words: what was done, for people.
    """

    weights: Mapping[int, float] = field(default_factory=dict)
    contents: Mapping[int, Any] = field(default_factory=dict)
    added: tuple[Any, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def touched(self) -> list[int]:
        """Training examples whose weight or content changes, in order."""
        return sorted({*self.weights, *self.contents})

    @property
    def removed(self) -> list[int]:
        return sorted(i for i, weight in self.weights.items() if weight == 0)

    def total_weight(self, n: int) -> float:
        """Examples that the edited set counts: `n` plus the changes of weight and the added."""
        return float(n + sum(weight - 1.0 for weight in self.weights.values()) + len(self.added))

    def and_then(self, other: Edits) -> Edits:
        """Both.

        Raises:
            InputError: both change the weight, or both the content, of the same training example, or one
                removes what the other changes.
        """
        self._refuse_both(self.weights, other.weights, "weight")
        self._refuse_both(self.contents, other.contents, "content")
        weights, contents = {**self.weights, **other.weights}, {**self.contents, **other.contents}
        gone = sorted(i for i in contents if weights.get(i) == 0)
        if gone:
            raise InputError(
                f"training example {gone[0]} is both removed and given another content; do one of the two"
            )
        return Edits(weights, contents, self.added + other.added, self.words + other.words)

    @staticmethod
    def _refuse_both(one: Mapping[int, Any], other: Mapping[int, Any], what: str) -> None:
        both = sorted(set(one) & set(other))
        if both:
            raise InputError(
                f"the {what} of training example {both[0]} is changed twice ({len(both)} such examples); "
                "change each once"
            )


def remove(indices: Indices, n: int) -> Edits:
    """Training examples that are taken out.

    Raises:
        InputError: no index, one outside the training set or named twice, or all of them.
    """
    chosen = check_indices(indices, n).tolist()
    if len(chosen) == n:
        raise InputError(f"indices: all {n} training examples are removed; nothing would be left to train on")
    return Edits(dict.fromkeys(chosen, 0.0), words=(f"remove {_examples(chosen)}",))


def upweight(indices: Indices, times: float | int, n: int) -> Edits:
    """Training examples that count `times` as much as before: `ε = (times − 1)/n` of Koh & Liang (2017, §2).

    Raises:
        InputError: `times` is no finite number ≥ 0, or as for `remove`.
    """
    times = number("times", times, least=0, expected="a finite number ≥ 0 (0 removes, 1 changes nothing)")
    chosen = check_indices(indices, n).tolist()
    return Edits(dict.fromkeys(chosen, float(times)), words=(f"count {_examples(chosen)} {times:g} times",))


def relabel(indices: Indices, labels: Any, train: Data) -> Edits:
    """Training examples with other targets.

    Args:
        indices: which.
        labels: one target for all, or one for each.
        train: the training set.

    Raises:
        InputError: as many labels as examples were expected; items whose target cannot be told apart.
    """
    chosen = check_indices(indices, train.n).tolist()
    given = labels.tolist() if isinstance(labels, (Tensor, np.ndarray)) and labels.ndim <= 1 else labels
    # A target may itself be a vector: one of its shape is meant for all.
    own = tuple(getattr(target_of(train.item(chosen[0])), "shape", ()))
    alike = bool(own) and tuple(getattr(labels, "shape", ())) == own
    several = isinstance(given, (list, tuple, Tensor, np.ndarray)) and not alike
    if several and len(given) != len(chosen):
        raise InputError(
            f"labels has {len(given)} entries for {len(chosen)} training examples; expected one for each, or "
            "one for all"
        )
    each = list(given) if several else [given] * len(chosen)
    items = {i: with_target(train.item(i), label) for i, label in zip(chosen, each)}
    return Edits(contents=items, words=(f"relabel {_examples(chosen)}",))


def replace(indices: Indices, examples: Any, train: Data) -> Edits:
    """Training examples with another content.

    Args:
        indices: which.
        examples: one for each, in any form the training set may have.
        train: the training set.

    Raises:
        InputError: another number of examples, or of another form than the training set's.
    """
    chosen = check_indices(indices, train.n).tolist()
    items = items_of(examples, "examples", train)
    if len(items) != len(chosen):
        raise InputError(
            f"examples holds {len(items)} examples for {len(chosen)} training examples; expected one for each"
        )
    return Edits(contents=dict(zip(chosen, items)), words=(f"replace {_examples(chosen)}",))


def add(examples: Any, train: Data) -> Edits:
    """New examples.

    Raises:
        InputError: none at all, or of another form than the training set's.
    """
    items = items_of(examples, "examples", train)
    return Edits(added=tuple(items), words=(f"add {len(items):,} new",))


def perturb(
    indices: Indices, delta: Any, train: Data, valid_range: tuple[float, float] | None = None
) -> Edits:
    """Training examples `(x, y)` moved to `(x + δ, y)`.

    Args:
        indices: which.
        delta: `δ`, one shaped like `x` for all, or one for each.
        train: the training set.
        valid_range: smallest and largest value that an entry of `x + δ` may have.

    Raises:
        InputError: inputs that are not continuous, `δ` of another shape, NaN in it, or an edit that leaves
            `valid_range`.
    """
    chosen = check_indices(indices, train.n).tolist()
    inputs = [_continuous(inputs_of(train.item(i)), i) for i in chosen]
    try:
        moves = torch.as_tensor(delta, dtype=torch.float64).detach().to(inputs[0].device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"delta is a {type(delta).__name__} that holds no numbers ({error}); expected changes of the "
            "input"
        ) from error
    if not bool(torch.isfinite(moves).all()):
        raise InputError("delta holds NaN or infinity; expected finite changes of the input")
    shape = tuple(inputs[0].shape)
    if tuple(moves.shape) == shape:
        moves = moves.expand(len(chosen), *shape)
    if tuple(moves.shape) != (len(chosen), *shape):
        raise InputError(
            f"delta has shape {tuple(moves.shape)}; expected {shape} (the same for all) or "
            f"{(len(chosen), *shape)}, one for each training example"
        )
    contents = {}
    for i, x, move in zip(chosen, inputs, moves):
        moved = x.double() + move
        _require_range(moved, i, valid_range)
        contents[i] = with_inputs(train.item(i), moved)
    return Edits(contents=contents, words=(f"perturb {_examples(chosen)}",))


def items_of(examples: Any, name: str, train: Data) -> list[Any]:
    """Single items of examples given in any form a training set may have.

    Raises:
        InputError: none at all, or of another form than the training set's.
    """
    data = Data(examples)
    if data.n == 0:
        raise InputError(f"{name} is empty: expected at least one example")
    items = [data.item(i) for i in range(data.n)]
    train.stack(items)  # refuses what does not fit beside the training set's
    return items


def _continuous(inputs: Any, i: int) -> Tensor:
    found = torch.as_tensor(inputs) if isinstance(inputs, (Tensor, np.ndarray)) else None
    if found is None or not found.is_floating_point():
        what = f"of dtype {found.dtype}" if found is not None else f"a {type(inputs).__name__}"
        raise InputError(
            f"the input of training example {i} is {what}; expected floating-point numbers, which alone can "
            "be perturbed. For tokens and other discrete inputs replace the example."
        )
    return found


def _require_range(moved: Tensor, i: int, valid_range: tuple[float, float] | None) -> None:
    if valid_range is None:
        return
    try:
        low, high = valid_range
        ordered = bool(low < high)
    except (TypeError, ValueError):
        ordered = False
    if not ordered:
        raise InputError(f"valid_range={valid_range!r}: expected (smallest, largest)")
    slack = 1e-6 * (high - low)
    if bool((moved < low - slack).any()) or bool((moved > high + slack).any()):
        raise InputError(
            f"delta takes training example {i} to {float(moved.min()):g}..{float(moved.max()):g}, outside "
            f"valid_range={low:g}..{high:g}. Clip x + δ to the range first."
        )


def _examples(chosen: list[int]) -> str:
    return count_of(len(chosen), "training example")
