"""The attack of Figure 5: heads on frozen features, and edits of their training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import conv_head
import convnet
import numpy as np
import torch
from cifar10 import Images
from cifar_pair import Pair
from experiment import say

import wherefrom
from wherefrom.losses import Logistic
from wherefrom.studies.attack import AttackResult, Budget, PoisonedQuery, audit_poisoning

BUDGET = Budget.grey_levels(0.5)


@dataclass(frozen=True)
class Method:
    """How an attack proceeds: the most steps, and their size in grey levels."""

    steps: int
    step_size: float


@dataclass(frozen=True)
class Task:
    """What all heads share: the images, the frozen network, its features of both sets (n, d)."""

    pair: Pair
    network: torch.nn.Module
    train_features: torch.Tensor
    test_features: torch.Tensor


@dataclass(frozen=True)
class Head:
    """A trained head: its influence functions, the features it reads of both sets, its weights."""

    influence: wherefrom.Influence
    features: conv_head.FrozenFeatures
    train_features: np.ndarray
    test_features: np.ndarray
    weights: np.ndarray

    def correct(self, pair: Pair) -> np.ndarray:
        """Which test images are read correctly."""
        return pair.test.y * (self.test_features @ self.weights) > 0


def task_of(network: torch.nn.Module, pair: Pair) -> Task:
    """The features of both sets, computed once."""
    parts = (convnet.pixels(images).double() for images in (pair.train, pair.test))
    return Task(pair, network, *(convnet.outputs(network, x) for x in parts))


def head_on(task: Task, components: int | None, alpha: float) -> Head:
    """A head at its optimum on components of the frozen features."""
    features = conv_head.FrozenFeatures(task.network, task.train_features, components)
    train = features.reduce(task.train_features).numpy()
    weights = conv_head.fit(train, task.pair.train.y, alpha)
    influence = wherefrom.Influence(
        conv_head.HeadOnFeatures(features, weights).eval(),
        _data(task.pair.train),
        loss=Logistic(),
        parameters="head",
        weight_decay=alpha,
        solver=wherefrom.Exact(),
        progress=False,
    ).fit()
    return Head(influence, features, train, features.reduce(task.test_features).numpy(), weights)


def one_by_one(
    task: Task, head: Head, rows: np.ndarray, method: Method, edits: Sequence[int]
) -> dict[int, PoisonedQuery]:
    """Each of the test images `rows` that is read correctly attacked by itself, with few edits before many.

    For a single edit two training images are tried, each by itself: the most promising of either class.

    Returns:
        For each row the attack that flipped it, or the last that did not.
    """
    found: dict[int, PoisonedQuery] = {}
    left = rows[head.correct(task.pair)[rows]]
    for k in edits:
        for candidates in _classes(task.pair) if k == 1 else (None,):
            if not len(left):
                break
            say(f"{len(left)} test images, {k} edited" + ("" if candidates is None else ", one class of two"))
            audit = audit_poisoning(
                head.influence,
                _data(task.pair.test.take(left)),
                budget=BUDGET,
                edits=(k,),
                candidates=candidates,
                steps=method.steps,
                step_size=method.step_size,
                keep=12,
            )
            found |= {int(left[entry.query]): entry for entry in audit.queries}
            left = np.array([row for row in left if not found[int(row)].flipped], dtype=np.int64)
    return found


def flipped_share(found: dict[int, PoisonedQuery], edits: int) -> float:
    """Of all images attacked, those that at most so many edits flip; what did not converge counts as not."""
    return sum(entry.flipped and entry.edits <= edits for entry in found.values()) / len(found)


def together(task: Task, head: Head, rows: np.ndarray, method: Method) -> AttackResult:
    """One edited training image against all of the test images `rows` at once."""
    return head.influence.attack(
        _data(task.pair.test.take(rows)),
        budget=BUDGET,
        edits=1,
        steps=method.steps,
        step_size=method.step_size,
    )


def refitted(
    task: Task, head: Head, found: dict[int, PoisonedQuery], alpha: float, most: int
) -> dict[str, float]:
    """Flips checked by heads refitted from zero on the edited images, without the library.

    Returns `heads`, `same_prediction`: how many predict what the attack said, and `others_changed`: the mean
    share of the other test images whose prediction changed along.
    """
    pair, before = task.pair, head.test_features @ head.weights > 0
    kept = [(row, entry) for row, entry in found.items() if entry.edited is not None][:most]
    agree, changed = 0, []
    for row, entry in kept:
        edited = head.train_features.copy()
        edited[entry.index] = convnet.outputs(head.features, entry.edited).numpy()
        after = head.test_features @ conv_head.fit(edited, pair.train.y, alpha) > 0
        agree += (1 if after[row] else -1) == entry.after
        changed.append(float((np.delete(after, row) != np.delete(before, row)).mean()))
    return {
        "heads": len(kept),
        "same_prediction": agree,
        "others_changed": float(np.mean(changed)) if changed else 0.0,
    }


def _classes(pair: Pair) -> tuple[list[int], list[int]]:
    return np.flatnonzero(pair.train.y < 0).tolist(), np.flatnonzero(pair.train.y > 0).tolist()


def _data(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    return convnet.pixels(images).double(), torch.from_numpy(images.y).double()[:, None]
