"""Every curvature of every kind of model against dense float64 autograd."""

from __future__ import annotations

import pytest
import torch

from tests.problems import HEADS, PROBLEMS, Problem, attention_tokens, linear_head, normal, seeded, tanh_mlp
from wherefrom.curvature import GaussNewtonOperator, HessianOperator, choose_curvature
from wherefrom.curvature.metrics import LossHessianMetric, SampledFisherMetric
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients import GradientEngine
from wherefrom.losses import CrossEntropy, CustomLoss
from wherefrom.task import Objective
from wherefrom.testing import DenseProblem, check_operator

TOLERANCE = {"atol": 1e-12, "rtol": 1e-9}


@pytest.fixture(params=PROBLEMS)
def problem(request) -> Problem:
    return PROBLEMS[request.param]()


def operator(problem: Problem, name: str, *, batch_size: int | None = None, **options):
    engine = GradientEngine(problem.objective(**options), batch_size)
    return choose_curvature(engine, name).operator


def test_ggn(problem):
    found = check_operator(operator(problem, "ggn").terms[0])
    torch.testing.assert_close(found, problem.dense().ggn(), **TOLERANCE)


def test_hessian(problem):
    found = check_operator(operator(problem, "hessian").terms[0])
    torch.testing.assert_close(found, problem.dense().hessian(), **TOLERANCE)


@pytest.mark.parametrize("mode", ["reverse_over_reverse", "forward_over_reverse"])
def test_hessian_in_both_modes(problem, mode):
    found = check_operator(HessianOperator(GradientEngine(problem.objective(), 4), mode))
    torch.testing.assert_close(found, problem.dense().hessian(), **TOLERANCE)


def test_empirical_fisher(problem):
    found = check_operator(operator(problem, "empirical_fisher").terms[0])
    torch.testing.assert_close(found, problem.dense().empirical_fisher(), **TOLERANCE)


@pytest.mark.parametrize("name", [name for name, build in PROBLEMS.items() if build().is_softmax])
def test_exact_fisher_is_the_expectation_over_classes_and_the_ggn(name):
    problem = PROBLEMS[name]()
    found = check_operator(operator(problem, "fisher").terms[0])
    torch.testing.assert_close(found, problem.dense().fisher(problem.fisher_weights), **TOLERANCE)
    torch.testing.assert_close(found, problem.dense().ggn(), **TOLERANCE)


@pytest.mark.parametrize("build", [linear_head, tanh_mlp, attention_tokens])
def test_sampled_fisher_tends_to_the_fisher(build):
    problem = build()
    engine = GradientEngine(problem.objective())
    metric = SampledFisherMetric(engine.objective.loss, draws=1, seed=0)
    check_operator(GaussNewtonOperator(engine, metric))
    draws = 400
    many = GaussNewtonOperator(engine, SampledFisherMetric(engine.objective.loss, draws, seed=1)).to_dense()
    exact = problem.dense().fisher(problem.fisher_weights)
    assert (many - exact).norm() < 8 / draws**0.5 * exact.norm()


def test_sampled_labels_depend_on_seed_and_example_only():
    problem = tanh_mlp()

    def sampled(seed: int, batch_size: int) -> torch.Tensor:
        engine = GradientEngine(problem.objective(), batch_size)
        return choose_curvature(engine, "sampled_fisher", seed=seed, fisher_draws=2).operator.to_dense()

    torch.testing.assert_close(sampled(3, 11), sampled(3, 4), **TOLERANCE)
    assert not torch.allclose(sampled(3, 11), sampled(4, 11))


@pytest.mark.parametrize("name", ["ggn", "hessian", "fisher", "empirical_fisher"])
def test_batch_size_changes_rounding_only(name):
    problem = tanh_mlp()
    whole = operator(problem, name, batch_size=100).to_dense()
    for size in (1, 4):  # 11 = 4 + 4 + 3: the last batch is short
        torch.testing.assert_close(operator(problem, name, batch_size=size).to_dense(), whole, **TOLERANCE)


@pytest.mark.parametrize("name", ["ggn", "hessian"])
def test_kept_graphs_and_fresh_ones_agree(name):
    problem = attention_tokens()
    vectors = torch.ones(problem.objective().p, 2, dtype=torch.float64)
    kept, fresh = operator(problem, name), operator(problem, name, batch_size=4, memory=2000)
    first = kept.matmat(vectors)
    torch.testing.assert_close(kept.matmat(vectors), first, rtol=0, atol=0)
    torch.testing.assert_close(fresh.matmat(vectors), first, **TOLERANCE)
    assert fresh.terms[0].engine.graph_bytes() > 2000
    assert fresh.terms[0].engine._kept is None


def test_single_precision_is_accurate_to_its_rounding():
    problem = tanh_mlp()
    found = check_operator(operator(problem, "ggn", dtype=torch.float32).terms[0])
    torch.testing.assert_close(found, problem.dense().ggn(), atol=1e-6, rtol=1e-4)


def test_the_regulariser_is_part_of_the_curvature():
    problem = tanh_mlp()
    p = problem.dense().p
    expected = problem.dense().hessian() + 0.3 * torch.eye(p, dtype=torch.float64)
    found = operator(problem, "hessian", weight_decay=0.3)
    torch.testing.assert_close(check_operator(found), expected, **TOLERANCE)
    assert operator(problem, "ggn", weight_decay=0.3).lower_bound == 0.3


@pytest.mark.parametrize("name", PROBLEMS)
def test_auto_takes_the_hessian_where_outputs_are_affine(name):
    problem = PROBLEMS[name]()
    chosen = choose_curvature(GradientEngine(problem.objective()))
    assert (chosen.name, chosen.is_hessian) == (("hessian", True) if name in HEADS else ("ggn", False))
    assert chosen.settings["curvature"] == chosen.name
    if name in HEADS:
        torch.testing.assert_close(chosen.operator.to_dense(), problem.dense().hessian(), **TOLERANCE)


def test_a_loss_that_is_not_convex_proves_nothing():
    problem = linear_head()
    x, _ = problem.data
    y = torch.linspace(-2, 2, len(x), dtype=torch.float64)
    loss = CustomLoss(lambda f, t: torch.log1p((f[:, 0] - t).square()), name="cauchy")
    objective = Problem(problem.model, (x, y), loss, problem.forward, lambda f: loss(f, y))
    for name in ("auto", "ggn"):
        data = operator(objective, name).terms[0]
        assert data.lower_bound == -float("inf")
        torch.testing.assert_close(data.to_dense(), objective.dense().hessian(), **TOLERANCE)
    assert (
        "not declared convex"
        in choose_curvature(
            GradientEngine(Problem(tanh_mlp().model, (x, y), loss, problem.forward, lambda f: f).objective())
        ).reason
    )


def test_unknown_and_unsupported_curvatures_are_refused():
    engine = GradientEngine(tanh_mlp().objective())
    with pytest.raises(InputError, match="curvature='kfac': expected one of 'auto', 'hessian'"):
        choose_curvature(engine, "kfac")
    smoothed = Problem(**{**vars(tanh_mlp()), "loss": CrossEntropy(label_smoothing=0.1)})
    with pytest.raises(UnsupportedError, match="likelihood"):
        operator(smoothed, "fisher").to_dense()


@pytest.mark.parametrize("lengths", [(3, 1, 4, 2), (1, 1, 3, 2)])
def test_options_of_several_numbers_per_example(lengths):
    """A softmax over each example's options, padded: the factor has no fixed form, products and matrix do."""
    items = [(normal(length, 3, seed=i), i % length) for i, length in enumerate(lengths)]

    def collate(batch):
        widest = max(len(x) for x, _ in batch)
        x = torch.zeros(len(batch), widest, 4, dtype=torch.float64)
        for row, (options, _) in zip(x, batch):
            row[: len(options), :3] = options
            row[len(options) :, 3] = 1.0
        return x, torch.tensor([y for _, y in batch])

    def masked(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    model = seeded(lambda: Options())
    x, y = collate(items)
    dense = DenseProblem(model, lambda m: m(x), lambda f: masked(f, y))
    objective = Objective(model, items, loss=CustomLoss(masked, convex=True), collate=collate)
    for batch_size in (1, 2, 4):
        found = GaussNewtonOperator(GradientEngine(objective, batch_size), LossHessianMetric(objective.loss))
        assert not found.fixed_rank
        torch.testing.assert_close(check_operator(found), dense.ggn(), **TOLERANCE)


class Options(torch.nn.Module):
    """Scores options; what is marked as padding gets a score that no softmax sees."""

    def __init__(self) -> None:
        super().__init__()
        self.score = torch.nn.Linear(3, 1)

    def forward(self, x):
        return self.score(x[..., :3]).squeeze(-1) - 1e3 * x[..., 3]
