"""Scores of queries against training examples through a block inverse: plan, measure, contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.gradients import Capture, LayerGradients
from wherefrom.layers import GradientForm, TokenOuterProducts
from wherefrom.memory import fitting
from wherefrom.progress import progress_bar
from wherefrom.solvers.contraction.low_rank_queries import LowRankQueryScorer
from wherefrom.solvers.contraction.plan import BlockPlan, Plan
from wherefrom.solvers.contraction.planner import BlockShape, make_plan
from wherefrom.solvers.contraction.scorers import BlockScorer, ExplicitScorer, ProductScorer
from wherefrom.solvers.contraction.token_scorer import TokenScorer
from wherefrom.task import Examples, Measure, sum_over_batches

# Queries and training examples on which an approximate plan is checked.
_CHECKED_QUERIES = 64
_CHECKED_TRAIN = 128
# Examples, about, whose gradients' norms are typical.
_TYPICAL = 512
# Queries whose solutions' ranks are found out before planning.
_SAMPLED = 4
# A plan that misses its tolerance is made again with a tighter one.
_ATTEMPTS = 3
# Queries less typical than training examples are off by more than predicted.
_CAUTION = 0.6
_STATE_SHARE = 0.5
# Numbers held while a query's solution is made, in units of its largest block.
_HELD = 4


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

    def forms(self, capture: Capture) -> list[GradientForm]:
        """The gradients on a captured batch, block by block."""
        return capture.gradients(capture.output_gradient(self.measure)[None])

    def scaled(self, capture: Capture) -> tuple[list[GradientForm], Float[Tensor, " b"]]:
        """The gradients, each divided by a power of two that brings its cotangent near 1, and these powers.

        Gradients of well-fitted examples are so small that products of two of them fall below the smallest
        normal number, where they are wrong and arithmetic is many times slower.
        """
        cotangent = capture.output_gradient(self.measure)
        largest = cotangent.reshape(len(cotangent), -1).abs().amax(1)
        exponents = torch.where(largest > 0, torch.frexp(largest)[1], 0)
        scales = torch.ldexp(torch.ones_like(largest), exponents)
        shaped = scales.reshape(-1, *[1] * (cotangent.ndim - 1))
        return capture.gradients((cotangent / shaped)[None]), scales

    def batches(
        self, index: Tensor, *, numbers_each: int = 0
    ) -> Iterator[tuple[list[GradientForm], Float[Tensor, " b"]]]:
        """Scaled gradients of these examples and their scales, in batches that fit the working memory,
        `numbers_each` further numbers per example included."""
        for part in index.to(self.layers.objective.device).split(self.layers.batch_size(1, numbers_each)):
            yield self.scaled(self.layers.capture(self.examples, part))

    def mean_and_norm(self) -> tuple[Float[Tensor, " p"], float]:
        """`(1/n) Σ g_i` in float64, and the root mean square of `‖g_i‖` over some 500 examples spread over
        the set (all of fewer than a thousand)."""
        n = len(self.examples)
        squares, count, step = 0.0, 0, max(1, n // _TYPICAL)

        def totals() -> Iterator[Tensor]:
            nonlocal squares, count
            for where, capture in self.layers.captures(self.examples):
                some = slice(-where.start % step, None, step)
                forms = self.forms(capture)
                squares += sum(float(form.select(some).squared_norms().sum()) for form in forms)
                count += len(range(where.stop - where.start)[some])
                yield torch.cat([form.total().reshape(-1).double() for form in forms])

        index = torch.cat([block.index.reshape(-1) for block in self.layers.blocks])
        mean = torch.zeros(self.layers.objective.p, dtype=torch.float64, device=index.device)
        mean[index] = sum_over_batches(totals()) / n
        return mean, (squares / count) ** 0.5

    def spread(self, count: int) -> Tensor:
        """Numbers of at most `count` examples, spread over the set."""
        return torch.tensor(self.examples.spread(count))


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
        # What was asked for is the user's tolerance, not the tighter one that plans are made for.
        plan = replace(plan, rtol=rtol)
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
    block = min(q, _fitting(layers, plan.state_bytes))
    total = len(train.examples) * -(-q // block)
    with _without_subnormals(), progress_bar("scoring", total, enabled=progress) as bar:
        for start in range(0, q, block):
            these = slice(start, min(start + block, q))
            scorers = [_scorer(block, inverse) for block, inverse in zip(plan.blocks, inverses)]
            query_scales = _absorb(scorers, queries, torch.arange(these.start, these.stop))
            for where, capture in layers.captures(train.examples):
                forms, scales = train.scaled(capture)
                on_batch(these, where, total_scores(scorers, forms) * scales[:, None] * query_scales)
                bar.advance(where.stop - where.start)


def total_scores(scorers: Sequence[BlockScorer], forms: Sequence[GradientForm]) -> Float[Tensor, "b q"]:
    """Scores of a batch, summed over the blocks."""
    total = scorers[0].scores(forms[0])
    for scorer, form in zip(scorers[1:], forms[1:]):
        total = total + scorer.scores(form)
    return total


@contextmanager
def _without_subnormals() -> Iterator[None]:
    """Numbers below the smallest normal one count as 0: rotated gradients are full of them in directions that
    hardly occur, and arithmetic with them is many times slower."""
    flushed = float(torch.tensor(torch.finfo(torch.float32).tiny) / 2) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)


def _fitting(layers: LayerGradients, state_bytes: int) -> int:
    """Queries whose state fits the memory."""
    return fitting(layers.objective.memory * _STATE_SHARE, state_bytes)


def _absorb(scorers: Sequence[BlockScorer], queries: GradientSource, index: Tensor) -> Float[Tensor, " q"]:
    """Hand the queries to the scorers, and return their scales."""
    largest = _largest([scorer.inverse for scorer in scorers])
    every = []
    for forms, scales in queries.batches(index, numbers_each=_HELD * largest):
        for scorer, form in zip(scorers, forms):
            scorer.absorb(form)
        every.append(scales)
    return torch.cat(every)


def _scorer(plan: BlockPlan, inverse: BlockInverse) -> BlockScorer:
    if plan.method == "explicit":
        return ExplicitScorer(inverse, rotate_back=plan.rotate_back)
    if plan.method == "tokens":
        return TokenScorer(inverse)
    if plan.method == "query rank":
        return LowRankQueryScorer(inverse, plan.tolerance)
    return ProductScorer(inverse, plan.expansion, rotate_back=plan.rotate_back)


def _exact_scorer(plan: BlockPlan, inverse: BlockInverse) -> BlockScorer:
    return _scorer(plan, inverse) if plan.exact else ExplicitScorer(inverse, rotate_back=True)


def _shapes(queries: GradientSource, train: GradientSource) -> list[BlockShape]:
    samples, _ = next(queries.batches(queries.spread(_SAMPLED)))
    ones, _ = next(train.batches(train.spread(1)))
    return [
        BlockShape(isinstance(sample, TokenOuterProducts), sample.positions, one.positions, sample)
        for sample, one in zip(samples, ones)
    ]


def _measured(
    plan: Plan, inverses: Sequence[BlockInverse], queries: GradientSource, train: GradientSource
) -> Plan:
    """Relative errors of queries' scores over a sample of training examples, against exact contraction."""
    state = sum(inverse.block.size * inverse.weights.element_size() for inverse in inverses)
    some = queries.spread(min(_CHECKED_QUERIES, _fitting(queries.layers, state + plan.state_bytes)))
    others = train.spread(_CHECKED_TRAIN)
    exact = [_exact_scorer(block, inverse) for block, inverse in zip(plan.blocks, inverses)]
    rough = [
        None if block.exact else _scorer(block, inverse) for block, inverse in zip(plan.blocks, inverses)
    ]
    for forms, _ in queries.batches(some, numbers_each=_HELD * _largest(inverses)):
        for true, other, form in zip(exact, rough, forms):
            true.absorb(form)
            if other is not None:
                other.absorb(form)
    sizes = torch.zeros(len(some), dtype=torch.float64, device=queries.layers.objective.device)
    errors = torch.zeros_like(sizes)
    for forms, scales in train.batches(others):
        values, wrong = (sizes.new_zeros(forms[0].b, len(some)) for _ in range(2))
        for true, other, form in zip(exact, rough, forms):
            part = true.scores(form)
            values += part
            if other is not None:
                wrong += other.scores(form).double() - part
        sizes += (values * scales[:, None]).square().sum(0)
        errors += (wrong * scales[:, None]).square().sum(0)
    return plan.measured((errors / sizes)[sizes > 0].sqrt(), (len(some), len(others)))


def _largest(inverses: Sequence[BlockInverse]) -> int:
    return max(inverse.block.size for inverse in inverses)


def _capture_numbers(inverses: Sequence[BlockInverse], shapes: Sequence[BlockShape]) -> int:
    """Multiplications of a forward pass of one example through the studied layers."""
    return sum(
        0 if shape.tokens else inverse.block.size * shape.train_positions
        for inverse, shape in zip(inverses, shapes)
    )
