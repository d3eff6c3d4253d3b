"""Models that compute their own loss when they are given the labels, held against the loss that was named."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wherefrom.errors import InputError
from wherefrom.task.batch import TARGET_KEYS, default_forward, default_target, split_batch
from wherefrom.task.objective import Objective

_PROBES = 4


def check_own_loss(objective: Objective) -> None:
    """Where the model returns a loss when it is given the labels, `loss=` must be that loss.

    Language models of Hugging Face shift the labels by one position inside; others smooth them, weigh
    classes or take another loss for one output. Compared are single examples, whose loss is their own. Not
    asked are users who say with `forward=` what is fed to the model, except that labels that should be
    shifted are found there too unless `target=` is given.

    Raises:
        InputError: the losses differ, with both numbers and what to pass.
    """
    if objective.target is not default_target:
        return
    pairs = [pair for i in objective.examples.spread(_PROBES) if (pair := _pair(objective, i)) is not None]
    if not pairs:
        return
    tolerance = 200 * torch.finfo(objective.dtype).eps
    if all(abs(own - named) <= tolerance * (1 + abs(own)) for _, own, named, _ in pairs):
        return
    position, own, named, shifted = max(pairs, key=lambda pair: abs(pair[1] - pair[2]))
    found = (
        f"the model's own loss of train example {position} is {own:.6g}, but loss={objective.loss.name!r} "
        f"gives {named:.6g}"
    )
    if all(s is not None and abs(own - s) <= tolerance * (1 + abs(own)) for _, own, _, s in pairs):
        raise InputError(
            f"{found}: the model compares the output at each position with the label of the next one "
            f"({shifted:.6g}, a language model that shifts inside). Shift here too: "
            f"{_shift_words(objective.examples.batch([0]))}."
        )
    if objective.forward is not default_forward:
        return
    ratios = [named / own if own else math.nan for _, own, named, _ in pairs]
    constant = len(pairs) > 1 and max(ratios) - min(ratios) <= tolerance * abs(ratios[0])
    raise InputError(
        f"{found}. "
        + (
            f"It is {ratios[0]:.4g} times that everywhere: the scale of the loss differs. "
            if constant
            else ""
        )
        + "Label smoothing, class weights, an auxiliary term, another reduction or another loss inside the "
        "model? Name the loss it was trained with (a wherefrom loss with the same settings, or a function of "
        "(outputs, targets)). If it was trained with loss= and not with its own, say so by feeding it "
        "without labels: forward=lambda model, batch: …"
    )


def _pair(objective: Objective, i: int) -> tuple[int, float, float, float | None] | None:
    """Position, the model's own loss, the named loss, and cross-entropy with shifted labels; `None` where
    the model has no loss of its own."""
    batch = objective.examples.batch([i])
    with torch.no_grad():
        own = own_loss(objective, batch)
        if own is None or not math.isfinite(own):
            return None
        try:
            outputs, targets = objective.outputs(objective.parameters.values, batch), objective.targets(batch)
            named = float(objective.loss(outputs, targets)[0])
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None  # examples that do not fit the loss are named where they are checked
        return i, own, named, _shifted(outputs, targets)


def own_loss(objective: Objective, batch: Any) -> float | None:
    """The loss that the model returns for a batch when it is called with the labels; `None` if it does not.

    Args:
        objective: whose default split of a batch applies.
        batch: of any number of examples.
    """
    try:
        args, kwargs, target = split_batch(batch)
    except InputError:  # fed by forward=
        return None
    for key in _label_keywords(objective.model, batch, len(args), kwargs):
        given = {**kwargs, key: target}
        try:
            made = objective.call(partial(_called, args=args, given=given))
        except Exception:  # labels in another form than the model takes: it was not trained by its own loss
            continue
        if (found := _loss_of(made)) is not None:
            return found
    return None


def _loss_of(made: Any) -> float | None:
    """The `loss` of an output object, or the one number in a tuple such as `(loss, logits)`."""
    loss = made.get("loss") if isinstance(made, Mapping) else getattr(made, "loss", None)
    parts = [loss] if loss is not None else list(made) if isinstance(made, (tuple, list)) else []
    for part in parts:
        if isinstance(part, Tensor) and part.numel() == 1 and part.is_floating_point():
            return float(part)
    return None


def _label_keywords(model: nn.Module, batch: Any, positional: int, keywords: Mapping[str, Any]) -> list[str]:
    """Names under which the model's `forward` may take labels."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    names = [one.name for one in parameters][positional:]
    own = next((key for key in TARGET_KEYS if isinstance(batch, Mapping) and key in batch), None)
    ordered = TARGET_KEYS if own is None else (own, *TARGET_KEYS)
    found = [key for key in ordered if key in names and key not in keywords]
    if not found and own is not None and any(one.kind is one.VAR_KEYWORD for one in parameters):
        found = [own, TARGET_KEYS[0]]  # a wrapper that hands keywords down to the model inside
    return list(dict.fromkeys(found))


def _shifted(outputs: Tensor, targets: Any) -> float | None:
    """Mean cross-entropy of each position's outputs with the next position's label."""
    if not (
        isinstance(targets, Tensor)
        and outputs.ndim == 3
        and targets.shape == outputs.shape[:2]
        and not targets.is_floating_point()
        and targets.shape[1] > 1
    ):
        return None
    try:
        return float(
            nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), targets[:, 1:].flatten().long())
        )
    except (RuntimeError, IndexError):  # labels that are no classes of the outputs
        return None


def _shift_words(batch: Any) -> str:
    key = next((key for key in TARGET_KEYS if isinstance(batch, Mapping) and key in batch), None)
    if key is None:
        return (
            "pass forward=lambda model, batch: model(*batch[:-1]).logits[:, :-1] and "
            "target=lambda batch: batch[-1][:, 1:]"
        )
    return (
        "pass forward=lambda model, batch: model(**{k: v for k, v in batch.items() if k != "
        f"{key!r}}}).logits[:, :-1] and target=lambda batch: batch[{key!r}][:, 1:]"
    )


def _called(model: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    return model(*args, **given)
