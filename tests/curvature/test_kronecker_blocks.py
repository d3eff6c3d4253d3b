"""K-FAC and EK-FAC against the dense blocks they approximate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.curvature.kronecker_cases import CASES, Setting, blocks_of, entries, linear_network
from tests.problems import classification, labels, linear_head, normal, seeded, tanh_mlp
from tests.support import as_a_user
from wherefrom.errors import InputError, NonFiniteError
from wherefrom.testing import check_operator

TOLERANCE = {"atol": 1e-12, "rtol": 1e-9}
ROUNDING = 1 + 1e-9


@pytest.fixture(params=CASES)
def case(request):
    problem = CASES[request.param]()
    return Setting(problem), problem.dense().ggn().detach()


def test_ekfac_has_the_trace_of_every_block(case):
    setting, ggn = case
    found = setting.gather().traces()
    for block in setting.layers.blocks:
        assert found[block.name] == pytest.approx(float(entries(ggn, block).trace()), rel=1e-9, abs=1e-12)


def test_ekfac_is_the_best_diagonal_in_its_basis_and_never_further_than_kfac(case):
    setting, ggn = case
    ekfac, kfac = setting.gather(), setting.gather("kfac")
    for block, basis, values, ours, theirs in zip(
        ekfac.blocks, ekfac.bases, ekfac.eigenvalues, blocks_of(ekfac), blocks_of(kfac)
    ):
        exact = entries(ggn, block)
        m = block.size
        units = torch.eye(m, dtype=torch.float64).reshape(m, *block.shape)
        rotation = basis.rotate(units).reshape(m, m)  # row k: Q^T e_k
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(m, dtype=torch.float64), **TOLERANCE)
        best = (rotation.T @ exact @ rotation).diagonal()
        torch.testing.assert_close(values.reshape(-1), best, **TOLERANCE)
        assert (exact - ours).norm() <= ROUNDING * (exact - theirs).norm() + 1e-12


def test_the_diagonal_is_that_of_the_matrix(case):
    setting, ggn = case
    found = setting.gather("diagonal")
    torch.testing.assert_close(check_operator(found.operator()), torch.diag(ggn.diagonal()), **TOLERANCE)


def test_ekfac_is_exact_where_gradients_are_explicit_rows(case):
    setting, ggn = case
    found = setting.gather()
    for block, ours in zip(found.blocks, blocks_of(found)):
        if block.kind == "rows":
            torch.testing.assert_close(ours, entries(ggn, block), **TOLERANCE)


def test_the_operator_keeps_its_contract():
    check_operator(Setting(tanh_mlp()).gather().operator())


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_one_layer_and_one_example_are_exact(method):
    problem = classification(seeded(lambda: nn.Linear(4, 3)), normal(1, 4), labels(1))
    found = Setting(problem).gather(method)
    torch.testing.assert_close(blocks_of(found)[0], problem.dense().ggn()[_order(found)], **TOLERANCE)


@pytest.mark.parametrize("method", ["kfac", "ekfac"])
def test_deep_linear_networks_with_squared_loss_are_exact(method):
    problem = linear_network(4, 3, 5, 2)
    ggn = problem.dense().ggn()
    found = Setting(problem).gather(method)
    for block, ours in zip(found.blocks, blocks_of(found)):
        torch.testing.assert_close(ours, entries(ggn, block), **TOLERANCE)


def test_expand_is_exact_for_linear_layers_at_positions_of_their_own():
    problem = linear_network(4, 3, 2, positions=True)
    ggn = problem.dense().ggn()
    found = Setting(problem).gather("kfac", sharing="expand")
    for block, ours in zip(found.blocks, blocks_of(found)):
        torch.testing.assert_close(ours, entries(ggn, block), **TOLERANCE)


def test_reduce_is_exact_for_linear_layers_whose_positions_are_averaged():
    """Eschenhagen et al. 2023, section 3.3; expand is not."""
    problem = linear_network(4, 3, 2, pooled=True)
    ggn = problem.dense().ggn()
    reduced = Setting(problem).gather("kfac", sharing="reduce")
    expanded = Setting(problem).gather("kfac", sharing="expand")
    for block, ours, theirs in zip(reduced.blocks, blocks_of(reduced), blocks_of(expanded)):
        exact = entries(ggn, block)
        torch.testing.assert_close(ours, exact, **TOLERANCE)
        assert (theirs - exact).norm() > 0.05 * exact.norm()


def test_empirical_gradients_give_the_empirical_fisher():
    problem = tanh_mlp()
    fisher = problem.dense().empirical_fisher()
    found = Setting(problem, "empirical_fisher").gather()
    assert "empirical" in found.labels
    for block in found.blocks:
        assert found.traces()[block.name] == pytest.approx(float(entries(fisher, block).trace()), rel=1e-9)


def test_a_dead_layer_has_no_curvature_and_a_basis_all_the_same():
    problem = tanh_mlp()
    with torch.no_grad():
        problem.model[2].weight.zero_()
    found = Setting(problem).gather()
    assert found.traces()["0"] == 0.0 and found.traces()["2"] > 0
    assert bool(torch.isfinite(found.operator().to_dense()).all())


@pytest.mark.parametrize("method", ["ekfac", "kfac", "diagonal"])
def test_activations_that_overflow_are_refused_by_name(method):
    problem = linear_head()
    x = problem.data[0].float() * 1e25
    problem.data, problem.model = (x, problem.data[1]), problem.model.float()
    with torch.no_grad():
        problem.model.weight.mul_(1e-25)
    with pytest.raises(NonFiniteError, match=r"block 'model'.*NaN or infinity.*float64"):
        Setting(problem).gather(method)


class HiddenNaN(nn.Module):
    """NaN between the layers, hidden from the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(self.second(torch.sqrt(self.first(x) - 1.0)))


@pytest.mark.parametrize("method", ["ekfac", "kfac", "diagonal"])
def test_nan_between_the_layers_is_refused(method):
    problem = classification(seeded(HiddenNaN), normal(11, 4), labels(11))
    with pytest.raises(NonFiniteError, match=r"block '(first|second)'.*NaN or infinity"):
        Setting(problem).gather(method)


@pytest.mark.parametrize(
    "wrong",
    [{"labels": "true"}, {"draws": 0}, {"draws": 1.5}, {"draws": True}, {"sharing": "share"}],
    ids=str,
)
def test_unknown_options_are_refused(wrong):
    with as_a_user(), pytest.raises(InputError, match=f"{next(iter(wrong))}=.*expected"):
        Setting(linear_head()).gather(**wrong)


def test_an_unknown_method_is_refused():
    with as_a_user(), pytest.raises(InputError, match=r"method='shampoo'.*'ekfac', 'kfac', 'diagonal'"):
        Setting(linear_head()).gather("shampoo")


def _order(found) -> tuple:
    index = found.blocks[0].index.reshape(-1)
    return index[:, None], index[None]
