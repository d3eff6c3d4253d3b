"""EK-FAC, K-FAC, the diagonal and the identity as solvers, against dense inverses of what they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import wherefrom
from tests.problems import PROBLEMS, N, Problem, classification, labels, linear_head, normal, seeded, tanh_mlp
from tests.support import as_a_user
from wherefrom.errors import InputError, NotPositiveDefiniteError, UnsupportedError
from wherefrom.solvers import PreparedBlocks

TOLERANCE = {"atol": 1e-11, "rtol": 1e-7}
SOLVERS = {
    "ekfac": wherefrom.EKFAC(score_rtol=0.0),
    "kfac": wherefrom.KFAC(score_rtol=0.0),
    "diagonal": wherefrom.Diagonal(score_rtol=0.0),
    "reduce": wherefrom.EKFAC(sharing="reduce", score_rtol=0.0),
    "sampled": wherefrom.EKFAC("sampled", score_rtol=0.0),
}
MODELS = (
    "linear_head",
    "tanh_mlp",
    "convolution",
    "attention_tokens",
    "soft_targets",
    "dict_with_logits",
)


def fitted(problem: Problem, solver, **options) -> wherefrom.Influence:
    chosen = {"curvature": "ggn", "progress": False, **problem.options, **options}
    made = wherefrom.Influence(problem.model, problem.data, loss=problem.loss, solver=solver, **chosen)
    return made.fit()


def damped_matrix(influence: wherefrom.Influence) -> Tensor:
    """The approximation and its damping, dense."""
    prepared = influence.prepared
    assert isinstance(prepared, PreparedBlocks) and prepared.curvature is not None
    matrix = prepared.curvature.operator().to_dense()
    for block in prepared.layers.blocks:
        matrix.diagonal()[block.index.reshape(-1)] += prepared.damping[block.name]
    return matrix


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_dense_inverse(name, solver):
    problem = PROBLEMS[name]()
    influence = fitted(problem, SOLVERS[solver])
    gradients = problem.dense().gradients().detach()
    expected = gradients @ torch.linalg.solve(damped_matrix(influence), gradients.T)
    found = influence.scores(problem.data)
    torch.testing.assert_close(found.values, expected, **TOLERANCE)
    torch.testing.assert_close(influence.self_scores().values, expected.diagonal(), **TOLERANCE)
    assert bool(found.converged.all()) and bool(torch.isinf(found.bound).all())


@pytest.mark.parametrize("name", MODELS)
def test_damping_is_a_tenth_of_each_layers_mean_eigenvalue(name):
    problem = PROBLEMS[name]()
    ggn = problem.dense().ggn().detach().diagonal()
    for damping in ("auto", wherefrom.RelativeDamping(0.1)):
        influence = fitted(problem, wherefrom.EKFAC(), damping=damping, weight_decay=0.03)
        prepared, chosen = influence.prepared, influence.damping
        assert chosen.per_block is not None and "0.1 times the mean eigenvalue" in chosen.reason
        for block in prepared.layers.blocks:
            mean = float(ggn[block.index.reshape(-1)].mean())
            if mean > 0:
                assert chosen.per_block[block.name] == pytest.approx(0.1 * mean, rel=1e-9)
            assert prepared.damping[block.name] == pytest.approx(
                chosen.per_block[block.name] + 0.03, rel=1e-9
            )
        assert influence.settings()["damping_per_block"] == dict(chosen.per_block)


def test_another_share_and_an_absolute_damping():
    problem = tanh_mlp()
    mean = float(problem.dense().ggn().detach().diagonal()[:25].mean())
    half = fitted(problem, wherefrom.EKFAC(), damping=wherefrom.RelativeDamping(0.5))
    assert half.damping.per_block["0"] == pytest.approx(0.5 * mean, rel=1e-9)
    absolute = fitted(problem, wherefrom.EKFAC(), damping=0.02, weight_decay=0.01)
    assert absolute.damping.per_block is None and absolute.damping.value == 0.02
    assert absolute.prepared.damping == pytest.approx({"0": 0.03, "2": 0.03})


def test_damping_of_conjugate_gradients_comes_from_its_preconditioner():
    problem = tanh_mlp()
    solver = wherefrom.CG(preconditioner=wherefrom.EKFAC())
    influence = fitted(problem, solver, damping=wherefrom.RelativeDamping())
    direct = fitted(problem, wherefrom.EKFAC())
    assert influence.damping.per_block == direct.damping.per_block
    gradients = problem.dense().gradients().detach()
    full = problem.dense().ggn().detach() + torch.diag(influence.damping.diagonal)
    found = influence.scores(problem.data)
    expected = gradients @ torch.linalg.solve(full, gradients.T)
    assert (found.values - expected).norm() <= 1e-3 * expected.norm()


def test_factored_damping_keeps_the_inverse_a_kronecker_product():
    """Martens & Grosse 2015, section 6.3, written out."""
    problem = classification(seeded(lambda: nn.Linear(4, 3, bias=False)), normal(N, 4), labels(N))
    damping = 0.05
    influence = fitted(problem, wherefrom.KFAC(factored=True, score_rtol=0.0), damping=damping)
    x, p = problem.data[0], torch.softmax(problem.model(problem.data[0]).detach(), 1)
    a = x.T @ x / N
    b = (torch.diag_embed(p) - p[:, :, None] * p[:, None]).mean(0)
    pi = ((a.trace() / 4) / (b.trace() / 3)).sqrt()
    left = torch.linalg.inv(b + damping**0.5 / pi * torch.eye(3, dtype=torch.float64))
    right = torch.linalg.inv(a + damping**0.5 * pi * torch.eye(4, dtype=torch.float64))
    gradients = problem.dense().gradients().detach()
    expected = gradients @ torch.kron(left, right) @ gradients.T
    torch.testing.assert_close(influence.scores(problem.data).values, expected, **TOLERANCE)


def test_the_identity_gives_inner_products_of_gradients():
    problem = tanh_mlp()
    gradients = problem.dense().gradients().detach()
    found = fitted(problem, wherefrom.Identity(), damping=1.0).scores(problem.data).values
    torch.testing.assert_close(found, gradients @ gradients.T, **TOLERANCE)


@pytest.mark.parametrize("name", ["ekfac", "kfac", "diagonal", "identity", "block_diagonal"])
def test_solvers_go_by_their_names(name):
    influence = fitted(tanh_mlp(), name)
    assert influence.settings()["solver"] == name
    assert bool(torch.isfinite(influence.scores((normal(2, 4), labels(2))).values).all())


def test_the_same_seed_gives_the_same_bits():
    first, again = (fitted(tanh_mlp(), wherefrom.EKFAC("sampled"), seed=2) for _ in range(2))
    other = fitted(tanh_mlp(), wherefrom.EKFAC("sampled"), seed=3)
    queries = (normal(3, 4), labels(3))
    assert torch.equal(first.scores(queries).values, again.scores(queries).values)
    assert not torch.allclose(first.scores(queries).values, other.scores(queries).values)


def test_a_singular_curvature_names_the_damping_that_repairs_it():
    problem = tanh_mlp()
    with pytest.raises(NotPositiveDefiniteError, match=r"'2' is singular|'0' is singular") as caught:
        fitted(problem, wherefrom.EKFAC(), damping=0.0)
    influence = fitted(problem, wherefrom.EKFAC(), damping=caught.value.damping)
    assert bool(torch.isfinite(influence.scores(problem.data).values).all())


def test_a_hessian_that_is_no_gauss_newton_matrix_is_refused():
    for solver in (wherefrom.EKFAC(), wherefrom.KFAC(), wherefrom.Diagonal(), wherefrom.BlockDiagonal()):
        with pytest.raises(UnsupportedError, match=rf"solver='{solver.name}'.*HessianOperator.*'ggn'"):
            fitted(tanh_mlp(), solver, curvature="hessian", damping=0.1)


def test_a_regulariser_that_is_not_diagonal_is_refused():
    def coupled(values: dict[str, Tensor]) -> Tensor:
        return sum(value.sum() for value in values.values()) ** 2

    with pytest.raises(UnsupportedError, match=r"weight_decay= instead"):
        fitted(tanh_mlp(), wherefrom.EKFAC(), regulariser=coupled)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"score_rtol": 1.0}, r"score_rtol=1\.0: expected a number from 0"),
        ({"score_rtol": -0.1}, r"score_rtol=-0\.1"),
        ({"score_rtol": True}, r"score_rtol=True"),
        ({"score_rtol": float("nan")}, r"score_rtol=nan"),
        ({"probes": -1}, "probes=-1: expected a whole number of at least 0"),
        ({"probes": 2.0}, r"probes=2\.0"),
        ({"labels": "all"}, r"labels='all': expected one of 'auto', 'exact', 'sampled'"),
        ({"sharing": None}, r"sharing=None"),
        ({"draws": 0}, r"draws=0"),
    ],
    ids=str,
)
def test_bad_options_are_refused(wrong, message):
    with as_a_user(), pytest.raises(InputError, match=message):
        wherefrom.EKFAC(**wrong)


@pytest.mark.parametrize(
    "solver",
    [
        wherefrom.EKFAC(),
        wherefrom.KFAC(),
        wherefrom.KFAC(factored=True),
        wherefrom.Diagonal(),
        wherefrom.BlockDiagonal(),
    ],
    ids=["ekfac", "kfac", "factored", "diagonal", "block_diagonal"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layers_without_gradients_add_nothing(solver, dtype):
    problem = tanh_mlp()
    with torch.no_grad():
        problem.model[2].weight.zero_()  # nothing reaches the first layer
    influence = fitted(problem, solver, dtype=dtype)
    found = influence.scores(problem.data).values
    head = fitted(problem, solver, dtype=dtype, parameters="2").scores(problem.data).values
    assert bool(torch.isfinite(found).all()) and float(found.abs().max()) > 0
    torch.testing.assert_close(found, head, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize(
    "solver", [wherefrom.EKFAC(), wherefrom.KFAC(factored=True), wherefrom.BlockDiagonal()]
)
def test_a_network_without_any_gradient_scores_zero(solver):
    """Squared loss, no inputs and no biases: nothing depends on the parameters."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3, bias=False), nn.Tanh(), nn.Linear(3, 2, bias=False)))
    x, y = torch.zeros(N, 4, dtype=torch.float64), normal(N, 2)
    problem = Problem(model, (x, y), "squared_error", lambda m: m(x), lambda f: (f - y).square().sum(1))
    assert float(fitted(problem, solver).scores(problem.data).values.abs().max()) == 0.0


def test_a_single_example_and_a_single_query():
    problem = classification(linear_head().model, normal(1, 4), labels(1))
    influence = fitted(problem, wherefrom.EKFAC(score_rtol=0.0))
    gradients = problem.dense().gradients().detach()
    expected = gradients @ torch.linalg.solve(damped_matrix(influence), gradients.T)
    torch.testing.assert_close(influence.scores(problem.data).values, expected, **TOLERANCE)


@pytest.mark.parametrize(
    "options", [{"curvature": "hessian"}, {"regulariser": lambda named: named["0.weight"].pow(4).sum()}]
)
def test_inner_products_ask_for_no_curvature(options):
    problem = PROBLEMS["tanh_mlp"]()
    influence = wherefrom.Influence(
        problem.model, problem.data, loss=problem.loss, solver=wherefrom.Identity(), progress=False, **options
    ).fit()
    gradients = problem.dense().gradients()
    found = influence.scores(tuple(part[:3] for part in problem.data)).values
    torch.testing.assert_close(found, gradients[:3] @ gradients.T)


def test_a_regular_diagonal_needs_no_damping():
    problem = PROBLEMS["tanh_mlp"]()
    influence = wherefrom.Influence(
        problem.model,
        problem.data,
        loss=wherefrom.SquaredError(),
        target=lambda batch: torch.nn.functional.one_hot(batch[1], 3).double(),
        curvature="ggn",
        solver=wherefrom.Diagonal(),
        damping=0.0,
        progress=False,
    ).fit()
    assert bool(torch.isfinite(influence.scores(tuple(part[:3] for part in problem.data)).values).all())


def test_a_tolerance_that_is_no_number_is_refused():
    with as_a_user(), pytest.raises(InputError, match="score_rtol='x'"):
        wherefrom.EKFAC(score_rtol="x")
