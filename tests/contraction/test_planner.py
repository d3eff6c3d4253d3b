"""What the planner chooses: the cheapest by its own predictions, and nothing inexact unasked."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch

from tests.contraction.blocks import Shape, make_inverse, outer_form
from wherefrom.curvature.kronecker import BlockInverse
from wherefrom.solvers.contraction import Plan
from wherefrom.solvers.contraction import planner as planning
from wherefrom.solvers.contraction.planner import BlockShape, make_plan


def an_inverse(
    outputs: int = 60, inputs: int = 80, *, separable: bool = False, kind: str = "matrix"
) -> BlockInverse:
    generator = torch.Generator().manual_seed(0)
    made = make_inverse(
        Shape(1, outputs, inputs, 1, 1, 1, 1, True, 0), generator, separable=separable, kind=kind
    )
    if made.eigenvalues is None:
        return made
    # Eigenvalues as they are: products that fall off fast, with noise.
    decay = torch.outer(torch.arange(1, outputs + 1) ** -1.5, torch.arange(1, inputs + 1) ** -1.5).double()
    values = (decay * torch.rand(outputs, inputs, generator=generator).double().add(0.5))[None]
    damping = 0.1 * float(values.mean())
    return replace(made, eigenvalues=values, damping=damping, weights=1 / (values + damping))


def plan(
    inverse: BlockInverse, shape: BlockShape, *, queries: int = 50, train: int = 1000, rtol: float = 0.0
) -> Plan:
    return make_plan([inverse], [shape], queries=queries, train=train, rtol=rtol, capture_operations=1e6)


ONE = BlockShape(False, 1, 1)


def test_separable_inverses_keep_rank_one() -> None:
    made = plan(an_inverse(separable=True), ONE)
    assert made.blocks[0].method == "gram" and made.exact


def test_many_positions_are_summed_first() -> None:
    made = plan(an_inverse(separable=True), BlockShape(False, 200, 200))
    assert made.blocks[0].method == "explicit"


def test_nothing_is_approximated_unasked() -> None:
    for shape in (ONE, BlockShape(False, 4, 4)):
        assert plan(an_inverse(), shape, train=10**6).exact


def test_expansion_where_errors_are_allowed() -> None:
    made = plan(an_inverse(), ONE, queries=1000, train=10**5, rtol=1e-2)
    assert made.blocks[0].method == "low rank" and not made.exact
    assert made.blocks[0].expansion is not None
    assert made.blocks[0].expansion[0].predicted_error <= 0.1


def test_low_rank_queries_where_training_gradients_have_many_positions() -> None:
    generator = torch.Generator().manual_seed(1)
    shape = Shape(1, 60, 80, 30, 30, 4, 1, True, 0)
    inverse = an_inverse()
    form = outer_form(shape, 4, 30, generator)
    # Two directions only, in the block's own basis: so are the solutions.
    form.gradients[..., 2:] = 0
    assert inverse.basis.left is not None
    sample = form.rotated(inverse.basis.left.mT, None)
    made = plan(inverse, BlockShape(False, 30, 30, sample), queries=5, train=10**5, rtol=1e-2)
    (block,) = made.blocks
    assert block.method == "query rank" and block.rank == 2 and not block.exact
    full = plan(inverse, BlockShape(False, 30, 30, outer_form(shape, 4, 30, generator)), rtol=1e-6)
    assert full.exact


def test_tokens_are_kept_as_tokens() -> None:
    made = plan(an_inverse(kind="tokens"), BlockShape(True, 7, 9), rtol=1e-2)
    assert made.blocks[0].method == "tokens" and made.exact
    # Memory for the tokens of a query, whatever the vocabulary.
    assert made.blocks[0].state_bytes == 7 * 60 * 8


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("queries", [1, 10, 1000])
@pytest.mark.parametrize("positions", [1, 3, 50])
def test_the_cheapest_is_chosen(separable: bool, queries: int, positions: int) -> None:
    inverse, shape = an_inverse(separable=separable), BlockShape(False, positions, positions)
    made = plan(inverse, shape, queries=queries, rtol=1e-2).blocks[0]
    others = [planning._explicit(inverse, shape, queries, 1000)]
    if separable:
        others.append(planning._product(inverse, shape, queries, 1000, None))
    assert all(made.seconds <= other.seconds for other in others)


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("rtol", [0.0, 1e-2])
def test_more_examples_never_cost_less(separable: bool, rtol: float) -> None:
    inverse = an_inverse(separable=separable)
    sizes = [1, 3, 10, 100, 1000]
    for shape in (ONE, BlockShape(False, 5, 5)):
        by_train = [plan(inverse, shape, train=n, rtol=rtol) for n in sizes]
        by_queries = [plan(inverse, shape, queries=q, rtol=0.0) for q in sizes]
        for plans in (by_train, by_queries):
            seconds = [made.blocks[0].seconds for made in plans]
            assert seconds == sorted(seconds)


def test_queries_are_rotated_back_only_where_that_is_less() -> None:
    inverse = an_inverse()
    assert plan(inverse, ONE, queries=1, train=10**6).blocks[0].rotate_back
    assert not plan(inverse, ONE, queries=10**4, train=10).blocks[0].rotate_back


def test_errors_are_shared_out_by_what_blocks_contribute() -> None:
    large, small = an_inverse(), an_inverse()
    assert small.eigenvalues is not None
    small = replace(small, eigenvalues=small.eigenvalues * 1e-3)
    shares = planning._error_shares([large, small, an_inverse(separable=True)], 1e-3)
    sizes = [float((one.weights * one.eigenvalues).norm()) for one in (large, small)]  # type: ignore[operator]
    assert shares[2] == 0 and shares[1] == min(0.1, shares[0] * sizes[0] / sizes[1])
    made = math.hypot(*(share * size for share, size in zip(shares, sizes)))
    assert made <= 1e-3 * math.hypot(*sizes) * (1 + 1e-9)


def test_explanations_fit_a_terminal() -> None:
    inverse = an_inverse()
    long = replace(inverse, block=replace(inverse.block, name="transformer.layers.11.attention.projection"))
    tokens = an_inverse(kind="tokens")
    sample = outer_form(Shape(1, 60, 80, 1, 1, 1, 1, True, 0), 2, 4, torch.Generator().manual_seed(0))
    made = make_plan(
        [long, inverse, tokens],
        [ONE, BlockShape(False, 4, 400, sample), BlockShape(True, 5, 6)],
        queries=123456,
        train=10**9,
        rtol=1e-2,
        capture_operations=1e18,
    )
    for told in (made, made.measured(torch.tensor([1e-3, 2e-3]).double(), (2, 8))):
        lines = told.explain().splitlines()
        assert max(len(line) for line in lines) <= 80, max(lines, key=len)
        assert len(lines) >= 4 + len(made.blocks)
        for block in told.blocks:
            assert any(block.block[-20:] in line and block.method in line for line in lines)
    assert "measured on 2 queries x 8 training examples" in told.explain()
    assert "1.6e-03 rms" in told.explain() and "2.0e-03 worst" in told.explain()


def test_exact_plans_say_so() -> None:
    assert "Exact up to rounding." in plan(an_inverse(), ONE).explain()


def test_plans_as_json() -> None:
    made = plan(an_inverse(), ONE, queries=1000, train=10**5, rtol=1e-2)
    told = json.loads(json.dumps(made.as_dict(), allow_nan=False))
    assert told["queries"] == 1000 and told["train"] == 10**5 and told["rtol"] == 1e-2
    assert told["blocks"][0]["method"] == "low rank" and told["blocks"][0]["shape"] == [1, 60, 80]
    assert told["operations"] == made.capture_operations + made.blocks[0].operations
    assert "expansion" not in told["blocks"][0]


def test_errors_of_no_query() -> None:
    made = plan(an_inverse(), ONE).measured(torch.zeros(0), (3, 4))
    assert made.measured_error == 0 and made.measured_on == (3, 4)


def test_a_fit_that_costs_more_than_it_saves_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"queries": 40, "train": 500, "rtol": 1e-2}
    assert plan(an_inverse(), ONE, **few).exact
    monkeypatch.setattr(planning, "_EXPANSION_SECONDS", 0.0)
    assert not plan(an_inverse(), ONE, **few).exact
