"""How a batch becomes the model's outputs and the loss's targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from wherefrom.errors import InputError

# Keys under which data sets of the field keep the target.
TARGET_KEYS = ("labels", "label", "targets", "target", "y")

Forward = Callable[[Any, Any], Any]  # (model, batch) -> outputs
Target = Callable[[Any], Any]  # batch -> targets


def split_batch(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Positional inputs, keyword inputs and targets of a batch.

    A tuple or list `(x, …, y)` feeds everything but the last to the model; a dict feeds everything but its
    target (`labels`, `label`, `targets`, `target` or `y`) as keywords.

    Raises:
        InputError: a batch of another kind; `forward=` and `target=` then say what to do with it.
    """
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        return tuple(batch[:-1]), {}, batch[-1]
    if isinstance(batch, Mapping):
        keys = [key for key in TARGET_KEYS if key in batch]
        if len(keys) == 1:
            return (), {key: value for key, value in batch.items() if key != keys[0]}, batch[keys[0]]
        raise InputError(
            f"a batch has the keys {sorted(map(str, batch))}; expected exactly one of "
            f"{', '.join(TARGET_KEYS)}. Pass target=lambda batch: … (and forward=lambda model, batch: … if "
            "the rest are not the model's keywords)."
        )
    raise InputError(
        f"a batch is a {type(batch).__name__}; expected a tuple (inputs, targets) or a dict with a target. "
        "Pass forward=lambda model, batch: … and target=lambda batch: …"
    )


def default_forward(model: nn.Module, batch: Any) -> Any:
    """The model called on everything in the batch but the target."""
    args, kwargs, _ = split_batch(batch)
    return model(*args, **kwargs)


def default_target(batch: Any) -> Any:
    """The batch's target."""
    return split_batch(batch)[2]


def output_tensor(outputs: Any) -> Tensor:
    """The tensor of a model's outputs: itself, or the `logits` of an output object.

    Raises:
        InputError: there is no single tensor; `forward=` must pick one.
    """
    if isinstance(outputs, Tensor):
        return outputs
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    raise InputError(
        f"the model returned a {type(outputs).__name__}; expected a tensor or an object with .logits. Pass "
        "forward=lambda model, batch: … that returns the tensor the loss is computed from."
    )
