"""Every way to contract a block, against the dense product."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.contraction.blocks import Case, Shape, outer_case, outer_form, shapes, token_case
from wherefrom.layers.outer_products import rows_form
from wherefrom.linalg import expand_inverse
from wherefrom.solvers.contraction.low_rank_queries import LowRankQueryScorer, weighted_terms
from wherefrom.solvers.contraction.scorers import BlockScorer, ExplicitScorer, ProductScorer
from wherefrom.solvers.contraction.token_scorer import TokenScorer


def scores(scorer: BlockScorer, case: Case, split: int) -> torch.Tensor:
    """Queries in two batches, training examples in two."""
    for part in (slice(0, split), slice(split, None)):
        form = case.queries.select(part)
        if form.b:
            scorer.absorb(form)
    parts = [case.train.select(part) for part in (slice(0, split), slice(split, None))]
    return torch.cat([scorer.scores(form) for form in parts if form.b])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max() + 1))


@given(shapes(), st.booleans(), st.integers(0, 3))
def test_explicit(shape: Shape, back: bool, split: int) -> None:
    case = outer_case(shape)
    close(scores(ExplicitScorer(case.inverse, rotate_back=back), case, split), case.dense())


@given(shapes(), st.booleans(), st.integers(0, 3))
def test_explicit_tokens(shape: Shape, back: bool, split: int) -> None:
    case = token_case(_one_group(shape))
    close(scores(ExplicitScorer(case.inverse, rotate_back=back), case, split), case.dense())


@given(shapes(positions=7), st.integers(0, 3))
def test_tokens(shape: Shape, split: int) -> None:
    case = token_case(_one_group(shape))
    close(scores(TokenScorer(case.inverse), case, split), case.dense())


def test_tokens_of_many_queries_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherefrom.solvers.contraction.token_scorer.PIECE", 200)
    case = token_case(Shape(1, 5, 4, 6, 6, 20, 30, True, 0))
    close(scores(TokenScorer(case.inverse), case, 7), case.dense())


def test_no_token_in_common() -> None:
    case = token_case(Shape(1, 3, 8, 2, 2, 2, 2, True, 0))
    case.queries.tokens.clamp_(max=3)
    case.train.tokens.clamp_(min=4)
    assert bool((scores(TokenScorer(case.inverse), case, 1) == 0).all())


@given(shapes(), st.booleans(), st.integers(0, 3))
def test_gram(shape: Shape, back: bool, split: int) -> None:
    case = outer_case(shape, separable=True)
    close(scores(ProductScorer(case.inverse, None, rotate_back=back), case, split), case.dense())


@given(shapes(), st.booleans(), st.integers(0, 3), st.booleans())
def test_expansions_as_good_as_they_are(shape: Shape, back: bool, split: int, entries: bool) -> None:
    case = outer_case(shape)
    assert case.inverse.eigenvalues is not None
    made = [
        expand_inverse(values, 0.1, 0.05, entry_cost=0.5 if entries else float("inf"))
        for values in case.inverse.eigenvalues
    ]
    weights = torch.stack([one.dense() for one in made])
    approximate = Case(replace(case.inverse, weights=weights), case.queries, case.train)
    scorer = ProductScorer(case.inverse, made, rotate_back=back)
    close(scores(scorer, case, split), approximate.dense())


@given(shapes(), st.booleans(), st.integers(0, 3))
def test_explicit_vectors(shape: Shape, back: bool, split: int) -> None:
    case = outer_case(replace(_one_group(shape), inputs=1, rotated=False))
    rows = [rows_form(form.rows()) for form in (case.queries, case.train)]
    vectors = Case(case.inverse, *rows)
    close(scores(ExplicitScorer(case.inverse, rotate_back=back), vectors, split), vectors.dense())


@given(shapes(), st.integers(0, 3))
def test_low_rank_queries_in_full(shape: Shape, split: int) -> None:
    case = outer_case(shape)
    close(scores(LowRankQueryScorer(case.inverse, 1e-12), case, split), case.dense())


@given(shapes(), st.floats(0.01, 0.9))
def test_low_rank_terms_leave_out_what_they_may(shape: Shape, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(shape.seed)
    q, o, i = shape.queries, shape.outputs, shape.inputs
    matrices = torch.randn(q, o, i, generator=generator, dtype=torch.float64)
    left, right = (torch.rand(w, generator=generator, dtype=torch.float64) + 0.1 for w in (o, i))
    lefts, rights, owners = weighted_terms(matrices, left, right, tolerance)
    made = torch.zeros_like(matrices).index_add_(0, owners, lefts[:, :, None] * rights[:, None])
    scale = left[:, None] * right
    for one, approximation, rank in zip(matrices, made, torch.bincount(owners, minlength=q)):
        spectrum = torch.linalg.svdvals(one * scale)
        total = float(spectrum.norm())
        assert float(((one - approximation) * scale).norm()) <= tolerance * total + 1e-6 * total
        # One term less would leave out too much: the singular vectors are best.
        assert float(spectrum[int(rank) - 1 :].norm()) > tolerance * total * (1 - 1e-6)


def test_vanishing_queries_have_no_terms() -> None:
    lefts, rights, owners = weighted_terms(
        torch.zeros(2, 3, 4).double(), torch.ones(3).double(), torch.ones(4).double(), 0.1
    )
    assert lefts.shape == (0, 3) and rights.shape == (0, 4) and len(owners) == 0
    case = outer_case(Shape(2, 3, 4, 2, 2, 3, 2, True, 0))
    case.queries.gradients.zero_()
    assert bool((scores(LowRankQueryScorer(case.inverse, 0.1), case, 1) == 0).all())


def _one_group(shape: Shape) -> Shape:
    return replace(shape, groups=1)


@given(shapes(), st.lists(st.integers(1, 4), min_size=2, max_size=4), st.booleans())
def test_queries_padded_to_the_longest_of_each_batch(shape: Shape, lengths: list[int], back: bool) -> None:
    case = outer_case(shape, separable=True)
    generator = torch.Generator().manual_seed(shape.seed)
    batches = [outer_form(shape, shape.queries, length, generator) for length in lengths]
    dense = [replace(case, queries=batch).dense() for batch in batches]
    for scorer in (
        ProductScorer(case.inverse, None, rotate_back=back),
        ExplicitScorer(case.inverse, rotate_back=back),
    ):
        for batch in batches:
            scorer.absorb(batch)
        close(scorer.scores(case.train), torch.cat(dense, dim=1))
