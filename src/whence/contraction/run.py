"""Scores of queries against training examples through a block inverse: plan, measure, contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whence.contraction.plan import BlockPlan, Plan
from whence.contraction.planner import BlockShape, make_plan
from whence.contraction.scorers import BlockScorer, ExplicitScorer, ProductScorer
from whence.curvature.kronecker import BlockInverse
from whence.gradients import Evaluated, LayerGradients
from whence.layers import GradientForm, OuterProducts
from whence.progress import progress_bar
from whence.task import Examples, Measure

# Queries and training examples on which an approximate plan is checked.
_CHECKED_QUERIES = 64
_CHECKED_TRAIN = 128
# A plan that misses its tolerance is made again with a tighter one.
_ATTEMPTS = 3
# Queries less typical than training examples are off by more than predicted.
_CAUTION = 0.6
_STATE_SHARE = 0.5


@dataclass(frozen=True)
class GradientSource:
    """Per-example gradients of a measurement, as factors.

    Attributes:
        layers: of the model.
        examples: training examples or queries.
        measure: one number per example.
    """

    layers: LayerGradients
    examples: Examples
    measure: Measure

    def forms(self, capture: Any) -> list[GradientForm]:
        """The gradients on a captured batch, block by block."""
        return capture.gradients(self.cotangent(capture)[None])

    def cotangent(self, at: Evaluated) -> Tensor:
        """`∇_f m`, shaped like the outputs."""
        leaf = at.outputs.detach().requires_grad_()
        with torch.enable_grad():
            (made,) = torch.autograd.grad(self.measure(leaf, at.targets).sum(), leaf)
        return made

    def spread(self, count: int) -> list[GradientForm]:
        """Gradients of at most `count` examples, spread over the set."""
        index = torch.tensor(self.examples.spread(count), device=self.layers.objective.device)
        return self.forms(self.layers.capture(self.examples, index))


def plan_contraction(
    inverses: Sequence[BlockInverse], queries: GradientSource, train: GradientSource, *, rtol: float
) -> Plan:
    """The cheapest plan, its error measured where it is not exact."""
    shapes = _shapes(queries, train)
    capture = 4.0 * len(train.examples) * _capture_numbers(inverses, shapes)
    asked = _CAUTION * rtol
    for _ in range(_ATTEMPTS):
        plan = make_plan(
            inverses,
            shapes,
            queries=len(queries.examples),
            train=len(train.examples),
            rtol=asked,
            capture_operations=capture,
        )
        if plan.exact:
            return plan
        plan = _measured(plan, inverses, queries, train)
        if plan.measured_error <= rtol:
            return plan
        asked *= _CAUTION * rtol / plan.measured_error
    return make_plan(
        inverses,
        shapes,
        queries=len(queries.examples),
        train=len(train.examples),
        rtol=0.0,
        capture_operations=capture,
    )


def contract(
    plan: Plan,
    inverses: Sequence[BlockInverse],
    queries: GradientSource,
    train: GradientSource,
    *,
    progress: bool = True,
    on_batch: Callable[[slice, slice, Tensor], None],
) -> None:
    """Run a plan.

    Args:
        plan: from `plan_contraction`.
        inverses, queries, train: as given there.
        progress: show a bar.
        on_batch: called with the slices of queries and of training examples, and their scores `(b, q)`.
    """
    layers = train.layers
    q = len(queries.examples)
    block = int(max(1, min(q, layers.objective.memory * _STATE_SHARE // max(plan.state_bytes, 1))))
    total = len(train.examples) * -(-q // block)
    with progress_bar("scoring", total, enabled=progress) as bar:
        for start in range(0, q, block):
            these = slice(start, min(start + block, q))
            scorers = _absorbed(plan, inverses, queries, these)
            for where, capture in layers.captures(train.examples):
                on_batch(these, where, total_scores(scorers, train.forms(capture)))
                bar.advance(where.stop - where.start)


def total_scores(scorers: Sequence[BlockScorer], forms: Sequence[GradientForm]) -> Float[Tensor, "b q"]:
    """Scores of a batch, summed over the blocks."""
    total = scorers[0].scores(forms[0])
    for scorer, form in zip(scorers[1:], forms[1:]):
        total = total + scorer.scores(form)
    return total


def _absorbed(
    plan: Plan, inverses: Sequence[BlockInverse], queries: GradientSource, these: slice
) -> list[BlockScorer]:
    scorers = [_scorer(block, inverse) for block, inverse in zip(plan.blocks, inverses)]
    size = queries.layers.batch_size(1, numbers_each=max(inverse.block.size for inverse in inverses))
    for start in range(these.start, these.stop, size):
        where = slice(start, min(start + size, these.stop))
        for scorer, form in zip(scorers, queries.forms(queries.layers.capture(queries.examples, where))):
            scorer.absorb(form)
    return scorers


def _scorer(plan: BlockPlan, inverse: BlockInverse) -> BlockScorer:
    if plan.method == "explicit":
        return ExplicitScorer(inverse, rotate_back=plan.rotate_back)
    return ProductScorer(inverse, plan.expansion, rotate_back=plan.rotate_back)


def _shapes(queries: GradientSource, train: GradientSource) -> list[BlockShape]:
    shapes = []
    for query, one in zip(queries.spread(2), train.spread(2)):
        outer = isinstance(query, OuterProducts) and isinstance(one, OuterProducts)
        shapes.append(BlockShape(outer, query.positions, one.positions))
    return shapes


def _measured(
    plan: Plan, inverses: Sequence[BlockInverse], queries: GradientSource, train: GradientSource
) -> Plan:
    """Relative errors of queries' scores over a sample of training examples, against exact contraction."""
    some, other = queries.spread(_CHECKED_QUERIES), train.spread(_CHECKED_TRAIN)
    exact_total: Tensor | None = None
    error_total: Tensor | None = None
    for block, inverse, query, one in zip(plan.blocks, inverses, some, other):
        exact = ExplicitScorer(inverse, rotate_back=False)
        exact.absorb(query)
        truth = exact.scores(one).double()
        exact_total = truth if exact_total is None else exact_total + truth
        if block.expansion is not None:
            scorer = _scorer(block, inverse)
            scorer.absorb(query)
            error = scorer.scores(one).double() - truth
            error_total = error if error_total is None else error_total + error
    assert exact_total is not None and error_total is not None
    sizes = exact_total.norm(dim=0)
    relative = error_total.norm(dim=0) / sizes.clamp(min=torch.finfo(torch.float64).tiny)
    return plan.measured(relative[sizes > 0], (some[0].b, other[0].b))


def _capture_numbers(inverses: Sequence[BlockInverse], shapes: Sequence[BlockShape]) -> float:
    """Multiplications of a forward pass of one example through the studied layers."""
    return sum(
        inverse.block.size * shape.train_positions if shape.outer else 0
        for inverse, shape in zip(inverses, shapes)
    )
