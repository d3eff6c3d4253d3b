"""Per-example gradients of a measurement, used in passes and never all held at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.gradients.engine import GradientEngine
from wherefrom.gradients.linear_head import LinearHeadLinearisation
from wherefrom.gradients.rounding import GradientSizes
from wherefrom.task import Examples, Measure, sum_over_batches

# Examples whose gradients are looked at for their typical size.
_SPREAD = 512
# Below this, squares of float32 lose digits.
_SMALLEST_SQUARED = 1e-15


class ExampleGradients:
    """`g_i = ∇_θ m(z_i, θ̂)` for every example of a set.

    Args:
        engine: of the objective.
        examples: training examples or queries.
        measure: one number per example from outputs and targets; the loss is the usual one.
    """

    def __init__(self, engine: GradientEngine, examples: Examples, measure: Measure):
        self.engine = engine
        self.examples = examples
        self.measure = measure
        # Of passes in batches of one size: two numbers an example, the same every time.
        self._sizes: dict[int, GradientSizes] = {}
        self._sizes_of = 0

    def __len__(self) -> int:
        return len(self.examples)

    def rows(self, where: slice | Tensor) -> Float[Tensor, "b p"]:
        """The gradients of these examples, explicitly: `b · p` numbers."""
        at = self.engine.linearise(self.examples, where)
        return at.vjp_each(at.output_gradient(self.measure)[None])[:, 0]

    def rows_and_sizes(self, where: slice | Tensor) -> tuple[Float[Tensor, "b p"], GradientSizes]:
        """The gradients of these examples, and how far rounding moves them."""
        at = self.engine.linearise(self.examples, where)
        cotangent = at.output_gradient(self.measure)
        rows = at.vjp_each(cotangent[None])[:, 0]
        return rows, self.engine.rounding.shaken(at, self.measure, cotangent, _norms([rows]))

    def products(self, directions: Float[Tensor, "p k"]) -> Iterator[tuple[slice, Tensor, GradientSizes]]:
        """For consecutive examples: which, `g_iᵀ V (b, k)`, and the sizes of the `g_i`."""
        k = directions.shape[1]
        head = self.engine.head
        # Explicit gradients of a head cost `c·d` numbers an example, its tangents `c·k`, read more than once.
        tangents_first = head is not None and head.single_position and 2 * k < head.module.in_features
        size = self.engine.rows_per_batch()
        if tangents_first:
            size = max(1, self.engine.batch_size * self.engine.columns // max(k, 1))
        if size != self._sizes_of:
            self._sizes, self._sizes_of = {}, size
        for start in range(0, len(self.examples), size):
            where = slice(start, min(start + size, len(self.examples)))
            at = self.engine.linearise(self.examples, where)
            sizes = self._sizes.get(start)
            cotangent = slopes = at.output_gradient(self.measure)
            # Padded sequences may have one position on the probe and several in this batch.
            if tangents_first and isinstance(at, LinearHeadLinearisation) and at.features.shape[1] == 1:
                count = cotangent.shape[0]
                tangents = at.jvp(directions).reshape(k, count, -1)
                cotangent = cotangent.reshape(count, -1)
                inner = torch.einsum("kbo,bo->bk", tangents, cotangent)
                if sizes is None:
                    squares = at.features.double().square().sum((1, 2)) + (1.0 if at.has_bias else 0.0)
                    norms = cotangent.double().norm(dim=1) * squares.sqrt()
            else:
                parts = [part[:, 0] for part in at.vjp_each_parts(cotangent[None])]
                pieces = directions.split([part.shape[1] for part in parts])
                inner = sum(
                    (part @ piece for part, piece in zip(parts[1:], pieces[1:])), start=parts[0] @ pieces[0]
                )
                if sizes is None:
                    norms = _norms(parts)
            if sizes is None:
                sizes = self.engine.rounding.shaken(at, self.measure, slopes, norms)
                self._sizes[start] = sizes
            yield where, inner, sizes

    def typical_norm(self) -> float:
        """Root mean square of `‖g_i‖` over at most 512 examples, evenly spread."""
        chosen = torch.linspace(0, len(self) - 1, min(len(self), _SPREAD)).long().unique()
        total = 0.0
        for part in chosen.split(self.engine.rows_per_batch()):
            at = self.engine.linearise(self.examples, part.to(self.engine.objective.device))
            rows = [rows[:, 0] for rows in at.vjp_each_parts(at.output_gradient(self.measure)[None])]
            total += float(_norms(rows).double().square().sum())
        return (total / len(chosen)) ** 0.5

    def sum(self, members: Int[Tensor, " k"]) -> Float[Tensor, " p"]:
        """`Σ_{i ∈ members} g_i` in float64: a backward pass per batch, no gradient of a single one."""
        return self._summed(members.to(self.engine.objective.device).split(self.engine.batch_size))

    def mean(self) -> Float[Tensor, " p"]:
        """`(1/n) Σ g_i` in float64."""
        size, n = self.engine.batch_size, len(self.examples)
        return self._summed(slice(start, min(start + size, n)) for start in range(0, n, size)) / n

    def _summed(self, parts: Iterable[slice | Tensor]) -> Float[Tensor, " p"]:
        linearised = (self.engine.linearise(self.examples, where) for where in parts)
        return sum_over_batches(
            at.vjp(at.output_gradient(self.measure)[None])[:, 0].double() for at in linearised
        )


def _norms(parts: list[Tensor]) -> Float[Tensor, " b"]:
    """`‖g_i‖` from the gradient's parts, in float64."""
    return torch.stack([_row_norms(part).square() for part in parts]).sum(0).sqrt()


def _row_norms(part: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """Row by row; in float64 from the start, which takes five times as long, only where squares of float32
    would leave its range."""
    made = torch.linalg.vector_norm(part, dim=1)
    out = ~((made > _SMALLEST_SQUARED) & made.isfinite())
    made = made.double()
    if bool(out.any()):
        made[out] = torch.linalg.vector_norm(part[out], dim=1, dtype=torch.float64)
    return made
