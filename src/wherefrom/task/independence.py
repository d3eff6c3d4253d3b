"""Is an example's loss its own? The same alone, in a batch, and when it is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import BatchDependenceError, InputError, WherefromError
from wherefrom.memory import is_allocation_failure
from wherefrom.task.objective import Objective

# Examples compared alone and inside a batch, beside the shortest, the longest and the ends of a full batch.
_PROBES = 4


class Seen:
    """What one pass over a data set, in batches of `batch_size`, leaves behind.

    Attributes:
        losses, lengths: of all examples; see `Examples.lengths`.
    """

    def __init__(self, n: int, batch_size: int):
        self.batch_size = batch_size
        self.losses: Float[Tensor, " n"] = torch.zeros(n, dtype=torch.float64)
        self.lengths: Int[Tensor, " n"] = torch.zeros(n, dtype=torch.long)

    def add(self, where: slice, losses: Float[Tensor, " b"], lengths: Int[Tensor, " b"]) -> None:
        """A batch."""
        self.losses[where], self.lengths[where] = losses.detach().double().cpu(), lengths

    def telling(self) -> list[int]:
        """The examples that a dependence on others would show on: some first to last, the ends of a full
        batch, the shortest and the longest, and what went through the model together with these."""
        n, size = len(self.losses), self.batch_size
        chosen = {i * (n - 1) // max(_PROBES - 1, 1) for i in range(_PROBES)} | {min(size, n) - 1}
        for extreme in (int(self.lengths.argmin()), int(self.lengths.argmax())):
            start = extreme // size * size
            near = self.lengths[start : start + size]
            chosen |= {extreme, start + int(near.argmin()), start + int(near.argmax())}
        return sorted(chosen)


def check_batch_independence(objective: Objective, seen: Seen | None = None) -> None:
    """An example's loss must be the same alone, in a batch, and when computed again.

    Args:
        objective: model, loss and training examples.
        seen: the losses in the batches of a pass over these, which is made where it is not given.

    Raises:
        BatchDependenceError: it is not, with the likely cause.
    """
    seen = _pass(objective) if seen is None else seen
    chosen = seen.telling()
    values = objective.parameters.values

    def losses(indices: list[int]) -> Tensor:
        batch = objective.examples.batch(indices)
        outputs = objective.outputs(values, batch)
        require_rows(outputs, len(indices))
        return objective.loss(outputs, objective.targets(batch)).double().cpu()

    tolerance = 1e4 * torch.finfo(objective.dtype).eps
    with torch.no_grad():
        together, again = losses(chosen), losses(chosen)
        if bool(((together - again).abs() > tolerance * (1 + together.abs())).any()):
            raise BatchDependenceError(
                "the same batch gave two different losses: the forward pass is random. Call model.eval(), "
                "and remove random layers or noise from forward."
            )
        try:
            alone = torch.cat([losses([i]) for i in chosen])
        except Exception as error:
            if is_allocation_failure(error):
                raise
            refuse_if_others_are_needed(objective, error, lambda batch: objective.losses(values, batch))
            raise
    passed = seen.losses[chosen]
    for inside, size in ((together, len(chosen)), (passed, min(seen.batch_size, objective.n))):
        gap = (inside - alone).abs() / (1 + alone.abs())
        if bool((gap > tolerance).any()):
            worst = int(gap.argmax())
            raise BatchDependenceError(
                f"example {chosen[worst]} has loss {float(inside[worst]):.6g} in a batch of {size} but "
                f"{float(alone[worst]):.6g} alone. Its loss depends on the batch around it: batch "
                "statistics, padding without a mask, experts with room for so many, negatives from the "
                "batch, or a loss normalised over the batch. Mask the padding, use running statistics "
                "(model.eval()), give experts room for all, keep an example's negatives in the example, or "
                "normalise within each example."
            )


def _pass(objective: Objective) -> Seen:
    seen, values = Seen(objective.n, objective.pass_size), objective.parameters.values
    with torch.no_grad():
        for where, batch in objective.examples.batches(objective.pass_size):
            outputs = objective.outputs(values, batch)
            require_rows(outputs, where.stop - where.start)
            losses = objective.loss(outputs, objective.targets(batch))
            seen.add(where, losses, objective.examples.lengths(where, batch))
    return seen


def require_rows(outputs: Tensor, count: int) -> None:
    """Refuse outputs whose first dimension is not the example.

    Raises:
        InputError: with the shape found.
    """
    if outputs.ndim == 0 or outputs.shape[0] != count:
        raise InputError(
            f"the model's outputs have shape {tuple(outputs.shape)} for a batch of {count} examples; "
            "expected the examples as the first dimension (a squeeze() without a dimension loses it for a "
            "single example)"
        )


def refuse_if_others_are_needed(objective: Objective, error: Exception, run: Callable[[Any], Any]) -> None:
    """What fails on one example and not on several needs the others.

    Raises:
        BatchDependenceError: `run` works on a batch of several.
    """
    few = objective.examples.spread(_PROBES)
    if isinstance(error, WherefromError) or len(few) < 2:
        return
    try:
        run(objective.examples.batch(few))
    except Exception:  # then it is not the number of examples
        return
    raise BatchDependenceError(
        f"the loss of a single example cannot be computed ({type(error).__name__}: {error}), though that of "
        f"{len(few)} together can: it is made from the other examples of its batch (negatives from the "
        "batch, batch statistics?), or a dimension is lost for one example (squeeze() without a dimension). "
        "Influence needs a loss for every example alone: keep its negatives in the example."
    ) from error
