"""Is this objective one that influence is defined for? Every question is asked once, before any curvature is
computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from whence.errors import BatchDependenceError, InputError, NonFiniteError, WhenceError
from whence.memory import is_allocation_failure
from whence.progress import progress_bar
from whence.task.examples import Examples
from whence.task.objective import Objective

_DROPOUT = nn.modules.dropout._DropoutNd
_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Examples compared alone and inside a batch.
_PROBES = 4


def check_model(model: nn.Module) -> None:
    """Refuse a model whose forward pass is random or couples the examples of a batch.

    Raises:
        InputError: dropout or batch normalisation in training mode, naming the module and the fix.
    """
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


def check_examples(
    objective: Objective, examples: Examples, *, batch_size: int, progress: bool = True
) -> None:
    """One pass over `examples`: finite inputs, valid targets, one finite loss per example.

    Raises:
        NonFiniteError, InputError: naming the first offending example.
    """
    values = objective.parameters.values
    with torch.no_grad(), progress_bar(f"checking {examples.role}", len(examples), enabled=progress) as bar:
        for where, batch in examples.batches(batch_size):
            examples.check_finite(batch, where)
            count = where.stop - where.start
            with _users_code(objective, "the model's forward pass", examples.role, batch):
                outputs = objective.outputs(values, batch)
            targets = objective.targets(batch)
            _require_rows(outputs, count)
            if not bool(torch.isfinite(outputs).all()):
                bad = (~torch.isfinite(outputs)).reshape(count, -1).any(1).nonzero()[0, 0]
                raise NonFiniteError(
                    f"the model's output for {examples.role} example {where.start + int(bad)} is NaN or "
                    "infinite"
                )
            try:
                with _users_code(
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
            bar.advance(count)


def check_inputs_untouched(objective: Objective) -> None:
    """Refuse a forward pass that writes into its inputs: examples kept in memory would change at every pass.

    Raises:
        InputError: an input tensor was written to.
    """
    batch = objective.examples.batch([0])
    tensors = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor)]
    before = [leaf._version for leaf in tensors]
    with torch.no_grad(), _users_code(objective, "the model's forward pass", objective.examples.role, batch):
        objective.outputs(objective.parameters.values, batch)
    if [leaf._version for leaf in tensors] != before:
        raise InputError(
            "the model writes into its input (a first layer with inplace=True?). Examples are read many "
            "times and must not change: use inplace=False there, or pass forward=lambda model, batch: … that "
            "clones the input."
        )


def check_batch_independence(objective: Objective) -> None:
    """An example's loss must be the same alone, in a batch, and when computed again.

    Raises:
        BatchDependenceError: it is not, with the likely cause.
    """
    chosen = objective.examples.spread(_PROBES)
    count = len(chosen)
    values = objective.parameters.values

    def losses(indices: list[int]) -> Tensor:
        batch = objective.examples.batch(indices)
        outputs = objective.outputs(values, batch)
        _require_rows(outputs, len(indices))
        return objective.loss(outputs, objective.targets(batch))

    with torch.no_grad():
        together, again = losses(chosen), losses(chosen)
        alone = torch.cat([losses([i]) for i in chosen])
    tolerance = 1e4 * torch.finfo(objective.dtype).eps
    if bool(((together - again).abs() > tolerance * (1 + together.abs())).any()):
        raise BatchDependenceError(
            "the same batch gave two different losses: the forward pass is random. Call model.eval(), and "
            "remove random layers or noise from forward."
        )
    gap = (together - alone).abs() / (1 + alone.abs())
    if bool((gap > tolerance).any()):
        worst = int(gap.argmax())
        raise BatchDependenceError(
            f"example {chosen[worst]} has loss {float(together[worst]):.6g} in a batch of {count} but "
            f"{float(alone[worst]):.6g} alone. Its loss depends on the batch around it: batch statistics, "
            "padding without a mask, or a loss normalised over the batch. Mask the padding, use running "
            "statistics (model.eval()), or normalise within each example."
        )


@contextmanager
def _users_code(objective: Objective, what: str, role: str, given: Any) -> Iterator[None]:
    """Name the role, the tensors and the computation's dtype in what the user's own code raises on them."""
    try:
        yield
    except (WhenceError, MemoryError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        if is_allocation_failure(error):
            raise
        tensors = [leaf for leaf in tree_flatten(given)[0] if isinstance(leaf, Tensor)]
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


def _require_rows(outputs: Tensor, count: int) -> None:
    if outputs.ndim == 0 or outputs.shape[0] != count:
        raise InputError(
            f"the model's outputs have shape {tuple(outputs.shape)} for a batch of {count} examples; "
            "expected the examples as the first dimension (a squeeze() without a dimension loses it for a "
            "single example)"
        )
