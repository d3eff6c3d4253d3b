"""Is this objective one that influence is defined for? Every question is asked once, before any curvature is
computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from wherefrom.errors import InputError, NonFiniteError, WherefromError
from wherefrom.memory import is_allocation_failure
from wherefrom.progress import progress_bar
from wherefrom.task.examples import Examples
from wherefrom.task.independence import Seen, refuse_if_others_are_needed, require_rows
from wherefrom.task.item_form import check_item_form
from wherefrom.task.objective import Objective
from wherefrom.task.own_loss import check_own_loss
from wherefrom.task.precision import check_precision

_DROPOUT = nn.modules.dropout._DropoutNd
# Examples that a model is tried on before its structure is looked at.
_FEW, _FIRST = 4, 8
_BATCH_NORM = nn.modules.batchnorm._BatchNorm


def check_model(model: nn.Module) -> None:
    """Refuse a model whose forward pass is random or couples the examples of a batch.

    Raises:
        InputError: dropout or batch normalisation in training mode, naming the module and the fix; a model
            wrapped for several devices.
    """
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(
            f"model is wrapped in {type(model).__name__}, which spreads batches over devices; expected the "
            "module itself. Pass model.module."
        )
    for name, module in model.named_modules():
        if isinstance(module, _DROPOUT) and module.training and module.p > 0:
            raise InputError(
                f"module {name!r} is dropout in training mode: losses would be random. Call model.eval() "
                "first."
            )
        if isinstance(module, _BATCH_NORM) and (module.training or not module.track_running_stats):
            raise InputError(
                f"module {name!r} is batch normalisation that uses the batch's own statistics: an example's "
                "loss depends on its neighbours. Call model.eval() first (and keep track_running_stats=True)."
            )
        if isinstance(module, nn.MultiheadAttention) and module.training and module.dropout > 0:
            raise InputError(
                f"module {name!r} has attention dropout in training mode. Call model.eval() first."
            )
        if isinstance(module, nn.RNNBase) and module.training and module.dropout > 0:
            raise InputError(
                f"module {name!r} has dropout between its layers in training mode. Call model.eval() first."
            )


def check_examples(objective: Objective, examples: Examples, *, progress: bool = True) -> Seen:
    """One pass over `examples`: finite inputs, valid targets, one finite loss per example.

    Returns:
        The losses, and what tells long examples from short ones.

    Raises:
        NonFiniteError, InputError: naming the first offending example.
    """
    values = objective.parameters.values
    with users_code(objective, "the model's forward pass", "train", lambda: objective.examples.batch([0])):
        batch_size = objective.pass_size
    seen = Seen(len(examples), batch_size)
    with torch.no_grad(), progress_bar(f"checking {examples.role}", len(examples), enabled=progress) as bar:
        for where, batch in examples.batches(batch_size):
            examples.check_finite(batch, where)
            count = where.stop - where.start
            with users_code(objective, "the model's forward pass", examples.role, batch):
                outputs = objective.outputs(values, batch)
            targets = objective.targets(batch)
            require_rows(outputs, count)
            if not bool(torch.isfinite(outputs).all()):
                bad = (~torch.isfinite(outputs)).reshape(count, -1).any(1).nonzero()[0, 0]
                raise NonFiniteError(
                    f"the model's output for {examples.role} example {where.start + int(bad)} is NaN or "
                    "infinite"
                )
            try:
                with users_code(
                    objective, f"loss {objective.loss.name!r}", examples.role, (outputs, targets)
                ):
                    objective.loss.validate(outputs, targets)
            except InputError as error:
                raise type(error)(
                    f"{examples.role} examples {where.start}..{where.stop - 1}: {error}"
                ) from error
            losses = objective.loss(outputs, targets)
            if not isinstance(losses, Tensor) or losses.shape != (count,):
                found = (
                    f"shape {tuple(losses.shape)}"
                    if isinstance(losses, Tensor)
                    else f"a {type(losses).__name__}"
                )
                raise InputError(
                    f"loss {objective.loss.name!r} returned {found} for {count} examples; expected one loss "
                    f"per example, ({count},). A mean or sum over the batch cannot be attributed: use "
                    "reduction='none'."
                )
            if not bool(torch.isfinite(losses).all()):
                first = int((~torch.isfinite(losses)).nonzero()[0, 0])
                raise NonFiniteError(
                    f"the loss of {examples.role} example {where.start + first} is {float(losses[first])}"
                )
            seen.add(where, losses, examples.lengths(where, batch))
            bar.advance(count)
    return seen


def check_meaning(objective: Objective) -> None:
    """Is what is fed in what was meant: which part of an example is the target, is the model's own loss the
    one that was named, and is it computed with the digits that errors are stated for?

    Raises:
        InputError: see `check_item_form`, `check_own_loss` and `check_precision`.
    """
    check_item_form(objective)
    check_own_loss(objective)
    check_precision(objective)


def check_inputs_untouched(objective: Objective) -> None:
    """Refuse a forward pass that writes into its inputs: examples kept in memory would change at every pass.

    Raises:
        InputError: an input tensor was written to, or the output has no first dimension for the example.
        BatchDependenceError: the forward pass fails on one example, though not on several.
    """
    batch = objective.examples.batch([0])
    tensors = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)]
    before = [leaf._version for leaf in tensors]
    with torch.no_grad(), users_code(objective, "the model's forward pass", objective.examples.role, batch):
        try:
            outputs = objective.outputs(objective.parameters.values, batch)
        except Exception as error:
            if is_allocation_failure(error):
                raise
            refuse_if_others_are_needed(
                objective, error, lambda many: objective.outputs(objective.parameters.values, many)
            )
            raise
    # What the structure of the model is looked up on: a failure there would come without a name.
    for few in (objective.examples.spread(_FEW), range(min(_FIRST, objective.n))):
        given = objective.examples.batch(few)
        with (
            torch.no_grad(),
            users_code(objective, "the model's forward pass", objective.examples.role, given),
        ):
            objective.outputs(objective.parameters.values, given)
    require_rows(outputs, 1)
    if [leaf._version for leaf in tensors] != before:
        raise InputError(
            "the model writes into its input (a first layer with inplace=True?). Examples are read many "
            "times and must not change: use inplace=False there, or pass forward=lambda model, batch: … that "
            "clones the input."
        )


@contextmanager
def users_code(objective: Objective, what: str, role: str, given: Any) -> Iterator[None]:
    """Name the role, the tensors and the computation's dtype in what the user's own code raises on them.
    `given` are these, or a function that reads them where they are to be named."""
    try:
        yield
    except (WherefromError, MemoryError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if is_allocation_failure(error):
            raise
        tensors = [
            leaf
            for leaf in tree_flatten(given() if callable(given) else given)[0]
            if isinstance(leaf, Tensor)
        ]
        found = ", ".join(f"{tuple(leaf.shape)} {_short(leaf.dtype)}" for leaf in tensors) or "no tensors"
        raise InputError(
            f"{what} failed on a batch of {role} ({found}) in {_short(objective.dtype)}: "
            f"{type(error).__name__}: {error}. Expected code that takes such a batch, its floating-point "
            "tensors in the dtype of the computation: set that by dtype=, or pass forward=lambda model, "
            "batch: … (for a loss, a function of (outputs, targets); target=lambda batch: … picks the "
            "targets)."
        ) from error


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
