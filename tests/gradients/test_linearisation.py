"""Jacobian products and per-example gradients of every kind of model against dense float64 autograd."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.problems import (
    HEADS,
    PROBLEMS,
    Problem,
    attention_tokens,
    dict_with_logits,
    labels,
    linear_head,
    mlp,
    normal,
    seeded,
    tanh_mlp,
    token_head,
)
from wherefrom.errors import UnsupportedError
from wherefrom.gradients import ExampleGradients, GradientEngine, fastest_hvp_mode, hessian_product
from wherefrom.gradients.autograd import looped_vjp_each
from wherefrom.losses import CrossEntropy
from wherefrom.task import Objective

TOLERANCE = {"atol": 1e-12, "rtol": 1e-9}


@pytest.fixture(params=PROBLEMS)
def problem(request) -> Problem:
    return PROBLEMS[request.param]()


@pytest.mark.parametrize("name", PROBLEMS)
def test_linear_heads_are_found_and_nothing_else(name):
    engine = GradientEngine(PROBLEMS[name]().objective())
    assert engine.structure == ("linear head" if name in HEADS else "autograd")
    assert engine.affine == (name in HEADS)
    assert engine.per_example == ("closed form" if name in HEADS else "vmap")


def test_products_with_the_jacobian(problem):
    jacobian = problem.dense().jacobian()  # (n, o, p)
    n, _, p = jacobian.shape
    engine = GradientEngine(problem.objective())
    at = engine.linearise(engine.objective.examples, slice(0, n))
    vectors, cotangents = normal(p, 3, seed=1), normal(4, *at.outputs.shape, seed=2)
    tangents = at.jvp(vectors)
    assert tangents.shape == (3, *at.outputs.shape)
    expected = torch.einsum("nop,pk->kno", jacobian, vectors)
    torch.testing.assert_close(tangents.reshape(3, n, -1), expected, **TOLERANCE)
    each = torch.einsum("nop,kno->nkp", jacobian, cotangents.reshape(4, n, -1))
    torch.testing.assert_close(at.vjp(cotangents), each.sum(0).T, **TOLERANCE)
    torch.testing.assert_close(at.vjp_each(cotangents), each, **TOLERANCE)
    torch.testing.assert_close(at.jvp(vectors), tangents, rtol=0, atol=0)  # on the kept graph


def test_products_on_chosen_examples(problem):
    jacobian = problem.dense().jacobian()
    engine = GradientEngine(problem.objective())
    index = torch.tensor([7, 2])
    at = engine.linearise(engine.objective.examples, index)
    cotangents = normal(1, *at.outputs.shape, seed=2)
    expected = torch.einsum("nop,kno->pk", jacobian[index], cotangents.reshape(1, 2, -1))
    torch.testing.assert_close(at.vjp(cotangents), expected, **TOLERANCE)
    torch.testing.assert_close(
        problem.objective().targets(engine.objective.examples.batch(index)), at.targets
    )


@pytest.mark.parametrize("batch_size", [None, 4])
def test_per_example_gradients(problem, batch_size):
    expected = problem.dense().gradients()
    engine = GradientEngine(problem.objective(), batch_size)
    gradients = ExampleGradients(engine, engine.objective.examples, engine.objective.loss)
    n, p = expected.shape
    assert len(gradients) == n
    torch.testing.assert_close(gradients.rows(slice(0, n)), expected, **TOLERANCE)
    torch.testing.assert_close(gradients.rows(torch.tensor([3, 0])), expected[[3, 0]], **TOLERANCE)
    torch.testing.assert_close(gradients.mean(), expected.mean(0), **TOLERANCE)
    directions, covered = normal(p, 3, seed=5), 0
    for where, inner, sizes in gradients.products(directions):
        torch.testing.assert_close(inner, expected[where] @ directions, **TOLERANCE)
        torch.testing.assert_close(sizes.norm, expected[where].norm(dim=1), **TOLERANCE)
        covered += where.stop - where.start
    assert covered == n


def test_one_by_one_equals_vmap(problem):
    objective = problem.objective()
    batch = objective.examples.batch(slice(0, 3))
    outputs = objective.outputs(objective.parameters.values, batch)
    cotangents = normal(2, *outputs.shape)
    jacobian = problem.dense().jacobian()[:3]
    expected = torch.einsum("nop,kno->nkp", jacobian, cotangents.reshape(2, 3, -1))
    torch.testing.assert_close(
        torch.cat(looped_vjp_each(objective)(batch, cotangents), 2), expected, **TOLERANCE
    )


class Branching(nn.Module):
    """What it computes depends on the values it sees: nothing that vmap can trace."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layers(row[None] if row.sum() > 0 else -2 * row[None]) for row in x])


def test_data_dependent_control_flow_falls_back_to_one_by_one():
    x, y = normal(11, 4), labels(11)
    problem = Problem(
        seeded(Branching),
        (x, y),
        "cross_entropy",
        lambda m: m(x),
        lambda f: F.cross_entropy(f, y, reduction="none"),
    )
    engine = GradientEngine(problem.objective())
    assert engine.per_example.startswith("one by one (")
    gradients = ExampleGradients(engine, engine.objective.examples, engine.objective.loss)
    torch.testing.assert_close(gradients.rows(slice(0, 11)), problem.dense().gradients(), **TOLERANCE)


def test_a_tensor_shared_by_the_batch_is_not_taken_for_one_row_per_example():
    items = [(normal(4, seed=i), i % 3) for i in range(6)]
    shared = normal(2, 4, seed=9)  # as many rows as the probe has examples

    def collate(batch):
        return {
            "x": torch.stack([x for x, _ in batch]),
            "shared": shared,
            "y": torch.tensor([y for _, y in batch]),
        }

    objective = Objective(
        mlp(),
        items,
        loss="cross_entropy",
        collate=collate,
        forward=lambda m, batch: m(batch["x"] + batch["shared"].sum(0)),
    )
    engine = GradientEngine(objective)
    assert engine.per_example == "one by one (torch.vmap gives other gradients than single examples do)"


class Odd(nn.Module):
    """A last layer that is not quite the output."""

    def __init__(self, after=lambda model, z, x: z, calls: int = 1) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.fc = nn.Linear(3, 3)
        self.after, self.calls = after, calls

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        for _ in range(self.calls):
            z = self.fc(z)
        return self.after(self, z, x)


def hooked() -> nn.Module:
    model = Odd()
    model.fc.register_forward_hook(lambda module, args, made: 2 * made)
    return model


def tied() -> nn.Module:
    model = Odd()
    model.body = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    model.body[1].weight = model.fc.weight
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: Odd(lambda model, z, x: 2 * z),
        lambda: Odd(lambda model, z, x: z.tanh()),
        lambda: Odd(lambda model, z, x: z + model.fc.weight.sum()),
        lambda: Odd(lambda model, z, x: z - z.mean()),
        lambda: Odd(lambda model, z, x: z[:, :2]),
        lambda: Odd(lambda model, z, x: z.flip(1)),
        lambda: Odd(calls=2),
        hooked,
        tied,
        lambda: nn.ModuleDict({"fc": nn.Linear(4, 3)}),
    ],
    ids=[
        "scaled",
        "transformed",
        "weight again",
        "batch",
        "part",
        "permuted",
        "two calls",
        "hook",
        "tied",
        "unused",
    ],
)
def test_what_only_looks_like_a_linear_head_is_not_one(build):
    model = seeded(build)
    x = normal(6, 4)
    forward = (lambda m, b: b[0][:, :3] * m["fc"].weight[0, 0]) if isinstance(model, nn.ModuleDict) else None
    objective = Objective(
        model, (x, labels(6, classes=2)), loss="cross_entropy", parameters="*fc.*", forward=forward
    )
    if "fc.weight" not in objective.parameters.names:
        objective = Objective(model, (x, labels(6, classes=2)), loss="cross_entropy", parameters="*body.1.*")
    engine = GradientEngine(objective)
    assert engine.head is None
    every = engine.linearise(objective.examples, slice(0, 6))
    flat = objective.parameters.flat()
    step = 1e-6 * normal(len(flat), seed=3)
    batch = objective.examples.batch(slice(0, 6))
    moved, back = (
        objective.outputs(objective.parameters.unflatten(flat + s * step), batch).detach() for s in (1, -1)
    )
    torch.testing.assert_close(every.jvp(step[:, None])[0], (moved - back) / 2, rtol=1e-6, atol=1e-12)


def test_a_head_that_stops_being_the_output_is_refused():
    model = seeded(lambda: Odd(lambda model, z, x: z if x[0, 0] < 100 else -z))
    x = normal(6, 4)
    x[5, 0] = 1000
    engine = GradientEngine(Objective(model, (x, labels(6)), loss="cross_entropy", parameters="fc"), 1)
    with pytest.raises(UnsupportedError, match="on some batches and not on others"):
        engine.linearise(engine.objective.examples, slice(5, 6))


@pytest.mark.parametrize("memory", [10**9, 500])
def test_features_are_kept_only_within_the_budget(memory):
    problem = token_head()
    engine = GradientEngine(problem.objective(memory=memory), 4)
    list(engine.training_passes())
    kept = engine._kept is not None
    assert kept == (memory > 500)
    expected = problem.dense().gradients()
    gradients = ExampleGradients(engine, engine.objective.examples, engine.objective.loss)
    torch.testing.assert_close(gradients.rows(slice(0, 11)), expected, **TOLERANCE)


@pytest.mark.parametrize("lengths", [(3, 1, 4, 2), (1, 1, 3, 2)])
def test_sequences_of_several_lengths_under_a_linear_head(lengths):
    generator = torch.Generator().manual_seed(0)
    items = [
        (normal(length, 3, seed=length), torch.randint(2, (length,), generator=generator))
        for length in lengths
    ]

    def collate(batch):
        return (
            pad_sequence([x for x, _ in batch], batch_first=True),
            pad_sequence([y for _, y in batch], batch_first=True, padding_value=-100),
        )

    model = seeded(lambda: nn.Linear(3, 2))
    for batch_size in (1, 2, 4):
        engine = GradientEngine(
            Objective(model, items, loss=CrossEntropy(class_dim=-1), collate=collate), batch_size
        )
        gradients = ExampleGradients(engine, engine.objective.examples, engine.objective.loss)
        for i, (x, y) in enumerate(items):
            loss = F.cross_entropy(model(x), y)
            expected = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
            torch.testing.assert_close(gradients.rows(torch.tensor([i]))[0], expected, **TOLERANCE)
        rows = torch.cat([gradients.rows(slice(i, i + 1)) for i in range(4)])
        torch.testing.assert_close(gradients.mean(), rows.mean(0), **TOLERANCE)
        for where, inner, sizes in gradients.products(normal(rows.shape[1], 1)):
            torch.testing.assert_close(inner, rows[where] @ normal(rows.shape[1], 1), **TOLERANCE)
            torch.testing.assert_close(sizes.norm, rows[where].norm(dim=1), **TOLERANCE)


@pytest.mark.parametrize("mode", ["reverse_over_reverse", "forward_over_reverse"])
def test_hessian_products_of_a_batch(problem, mode):
    objective = problem.objective()
    dense = problem.dense()
    product = hessian_product(objective, objective.examples.batch(slice(0, dense.n)), mode)
    vectors = normal(dense.p, 3)
    for _ in range(2):
        torch.testing.assert_close(product(vectors), dense.n * dense.hessian() @ vectors, **TOLERANCE)


def test_the_faster_mode_is_measured():
    objective = tanh_mlp().objective()
    mode, seconds = fastest_hvp_mode(objective, objective.examples.batch(slice(0, 4)), 2)
    assert set(seconds) == {"reverse_over_reverse", "forward_over_reverse"}
    assert seconds[mode] == min(seconds.values())


class DoubledByHand(torch.autograd.Function):
    """No forward-mode rule."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class WithoutForwardMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return DoubledByHand.apply(self.layers(x))


def test_a_model_without_forward_mode_is_run_in_reverse():
    objective = Objective(seeded(WithoutForwardMode), (normal(6, 4), labels(6)), loss="cross_entropy")
    mode, seconds = fastest_hvp_mode(objective, objective.examples.batch(slice(0, 4)), 2)
    assert mode == "reverse_over_reverse"
    assert set(seconds) == {"reverse_over_reverse"}


def test_the_budget_sets_columns_and_batch_sizes():
    small, large = (GradientEngine(tanh_mlp().objective(memory=size)) for size in (4_000, 10**9))
    assert small.batch_size < large.batch_size == 11
    assert small.columns < large.columns
    assert small.rows_per_batch() <= large.rows_per_batch()
    assert large.rows_per_batch(10**7) == 1
    assert GradientEngine(tanh_mlp().objective(), batch_size=3).batch_size == 3
    assert GradientEngine(linear_head().objective(), batch_size=300).batch_size == 11


def test_kept_graphs_are_reused():
    engine = GradientEngine(attention_tokens().objective(), 4)
    first = [at for _, at in engine.training_passes()]
    assert [at for _, at in engine.training_passes()] == first
    tight = GradientEngine(attention_tokens().objective(memory=2000), 4)
    first = [at for _, at in tight.training_passes()]
    assert [at for _, at in tight.training_passes()] != first


def test_frozen_weights_are_no_graph():
    problem = dict_with_logits()
    with_all = GradientEngine(problem.objective()).graph_bytes()
    head_only = GradientEngine(problem.objective(parameters=["scale", "second"])).graph_bytes()
    assert 0 < head_only <= with_all
