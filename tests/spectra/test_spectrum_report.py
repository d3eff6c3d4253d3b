"""The geometry report against dense matrices."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import wherefrom
from tests.spectra.spectral_problem import dense_gauss_newton, dense_hessian, network
from wherefrom.errors import InputError
from wherefrom.studies.spectra import HessianSplit, class_means, judge, spectrum_report, split_hessian

DECAY = 0.02


@pytest.fixture(scope="module")
def influence():
    return network(decay=DECAY, solver="exact", damping=0.05)


@pytest.fixture(scope="module")
def report(influence):
    return influence.spectrum(top=4, steps=43, starts=6)


def test_leading_eigenvalues_and_trace_are_those_of_the_dense_matrix(influence, report):
    dense = dense_gauss_newton(influence) + DECAY * torch.eye(43, dtype=torch.float64)
    values = torch.linalg.eigvalsh(dense).flip(0)
    torch.testing.assert_close(report.top.values.double(), values[:4], rtol=1e-3, atol=0)
    error = max(report.trace.standard_error, 1e-12)
    assert abs(report.trace.value - float(dense.trace())) < 4 * error


def test_effective_dimension_is_that_of_the_data_term(influence, report):
    values = torch.linalg.eigvalsh(dense_gauss_newton(influence))
    expected = float((values / (values + DECAY + 0.05)).sum())
    assert report.effective_dimension is not None
    error = max(report.effective_dimension.standard_error, 1e-6 * expected)
    assert abs(report.effective_dimension.value - expected) < 4 * error


def test_layers_are_the_diagonal_blocks(influence, report):
    dense = dense_gauss_newton(influence) + DECAY * torch.eye(43, dtype=torch.float64)
    blocks = {"0": dense[:25, :25], "2": dense[25:, 25:]}
    assert [layer.name for layer in report.layers] == list(blocks)
    for layer in report.layers:
        block = blocks[layer.name]
        assert layer.size == len(block)
        error = max(layer.trace.standard_error, 1e-9)
        assert abs(layer.trace.value - float(block.trace())) < 4 * error
        largest = float(torch.linalg.eigvalsh(block)[-1])
        assert 0.98 * largest < layer.largest <= largest * (1 + 1e-9)
    assert sum(layer.top_share for layer in report.layers) == pytest.approx(1)


def test_groups_named_by_the_user(influence):
    report = influence.spectrum(top=2, steps=8, starts=2, groups={"biases": "*.bias", "last": "2"})
    assert [(layer.name, layer.size) for layer in report.layers] == [("biases", 8), ("last", 18)]


def test_hessian_is_split_into_gauss_newton_and_rest(influence):
    hessian, gauss_newton = dense_hessian(influence), dense_gauss_newton(influence)
    split = split_hessian(influence.engine, probes=400, tolerance=1e-8)
    assert isinstance(split, HessianSplit)
    values = torch.linalg.eigvalsh(hessian + DECAY * torch.eye(43, dtype=torch.float64))
    assert split.largest == pytest.approx(float(values[-1]), rel=1e-6)
    assert split.smallest == pytest.approx(float(values[0]), rel=1e-6)
    rest = hessian - gauss_newton
    assert split.rest_share == pytest.approx(float(rest.norm() / gauss_newton.norm()), rel=0.2)
    assert abs(split.rest_trace.value - float(rest.trace())) < 4 * split.rest_trace.standard_error


def test_rest_of_a_linear_model_is_exactly_zero():
    torch.manual_seed(0)
    x, y = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 3, (20,))
    model = nn.Linear(3, 3).double()
    influence = wherefrom.Influence(
        model, (x, y), loss="cross_entropy", weight_decay=0.1, progress=False
    ).fit()
    split = split_hessian(influence.engine)
    assert isinstance(split, HessianSplit)
    assert split.rest_norm == 0.0 and split.rest_trace.value == 0.0


def test_class_means_are_those_of_explicit_gradients(influence, report):
    objective = influence.objective
    x, y = influence.train
    flat = objective.parameters.flat()

    def outputs(vector: torch.Tensor) -> torch.Tensor:
        return objective.outputs(objective.parameters.unflatten(vector), (x, y))

    jacobian = torch.autograd.functional.jacobian(outputs, flat)
    p = outputs(flat).softmax(1)
    centres = []
    for true in range(3):
        pairs = []
        for other in range(3):
            if other != true:
                root = p[:, other].sqrt()[:, None] * (p - torch.eye(3, dtype=p.dtype)[other])
                gradients = torch.einsum("bc,bcp->bp", root, jacobian)
                pairs.append(gradients[y == true].mean(0))
        centres.append(torch.stack(pairs).mean(0))
    basis = torch.linalg.qr(torch.stack(centres).T).Q
    expected = (basis.T @ report.top.vectors).pow(2).sum(0)
    torch.testing.assert_close(report.classes.by_class, expected, rtol=1e-6, atol=1e-8)
    assert bool((report.classes.by_pair >= report.classes.by_class - 1e-9).all())
    assert report.classes.dimension_class == 3
    assert report.classes.chance_class == pytest.approx(3 / 43)


def test_class_means_need_class_scores():
    torch.manual_seed(0)
    x, y = torch.randn(20, 3), torch.randn(20, 1)
    influence = wherefrom.Influence(
        nn.Linear(3, 1), (x, y), loss="squared_error", weight_decay=0.1, progress=False
    ).fit()
    report = influence.spectrum(top=2, steps=4, starts=2)
    assert isinstance(report.classes, str)
    words = class_means(influence.engine, torch.zeros(20, dtype=torch.long), report.top)
    assert isinstance(words, str) and "cross-entropy" in words


def test_a_saddle_is_not_trusted_and_the_damping_makes_it_definite(influence):
    split = split_hessian(influence.engine, tolerance=1e-8)
    assert isinstance(split, HessianSplit)
    made = {**vars(split), "smallest": -0.5 * split.largest, "smallest_residual": 0.0}
    verdict = judge(influence.minimum, HessianSplit(**made), 1e-4, "as given", curvature_is_hessian=False)
    assert verdict.level == "poor"
    assert verdict.damping == pytest.approx(0.75 * split.largest)
    assert "indefinite" in verdict.damping_reason


def test_a_smallest_eigenvalue_that_did_not_settle_vouches_for_nothing(influence):
    split = split_hessian(influence.engine, tolerance=1e-8)
    assert isinstance(split, HessianSplit)
    made = {**vars(split), "smallest": 0.01 * split.largest, "smallest_residual": 0.1 * split.largest}
    verdict = judge(influence.minimum, HessianSplit(**made), 1e-4, "as given", curvature_is_hessian=True)
    assert ("fair", True) in [(level, "not settled" in words) for level, words in verdict.reasons]


def test_a_hessian_of_zero_has_no_negative_part(influence):
    split = split_hessian(influence.engine)
    assert isinstance(split, HessianSplit)
    assert HessianSplit(**{**vars(split), "smallest": 0.0, "largest": 0.0}).negative_share == 0


def test_a_damped_matrix_definite_by_rounding_only_has_no_log_determinant(influence, report):
    fitted, smallest = influence, report.density.smallest
    nearly = replace(fitted.damping, value=0.5 * report.density.rounding - smallest)
    made = copy.copy(fitted)
    made.__dict__["damping"] = nearly
    found = spectrum_report(made, top=2, steps=43, starts=6)
    assert 0 < found.damping + found.density.smallest <= found.density.rounding
    assert found.log_determinant is None and found.effective_dimension is None


def test_sharpness_is_compared_with_the_learning_rate(influence):
    edge = 2 / float(influence.spectrum(top=1, steps=4, starts=2).hessian.largest)
    calm = influence.spectrum(top=1, steps=4, starts=2, learning_rate=0.1 * edge)
    wild = influence.spectrum(top=1, steps=4, starts=2, learning_rate=2 * edge)
    assert ("good", True) in [(level, "stable" in words) for level, words in calm.verdict.reasons]
    assert ("fair", True) in [(level, "edge of stability" in words) for level, words in wild.verdict.reasons]


def test_a_minimum_of_a_convex_objective_is_trusted():
    task = __import__("wherefrom.cli.demo", fromlist=["digits_tasks"]).digits_tasks(n_train=200)[0]
    influence = wherefrom.Influence(
        task["model"], task["train"], loss="cross_entropy", weight_decay=0.01, dtype=torch.float64,
        progress=False,
    ).fit()  # fmt: skip
    report = influence.spectrum(top=3, steps=10, starts=2)
    assert report.verdict.level == "good"
    assert report.verdict.damping == report.damping


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"top": 0}, "top=0: expected a whole number of at least 1"),
        ({"steps": 1}, "steps=1: expected a whole number of at least 2"),
        ({"starts": True}, "starts=True: expected a whole number of at least 2"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0: expected None or a finite number above 0"),
        ({"groups": {}}, "groups is empty"),
        ({"groups": {"a": "nothing*"}}, r"groups\['a'\]: 'nothing\*' matches none"),
    ],
)
def test_refused(influence, given, words):
    with pytest.raises(InputError, match=words):
        spectrum_report(influence, **given)


def test_class_means_beyond_the_memory_are_left_out_with_the_reason():
    fit = network(memory=int(2e6))
    pairs = fit.spectrum(top=2, steps=4, starts=2)
    assert not isinstance(pairs.classes, str)
    object.__setattr__(fit.engine.objective, "memory", 1000)
    words = class_means(fit.engine, fit.train[1], pairs.top)
    assert isinstance(words, str) and "memory budget" in words


def test_one_probe_has_no_standard_error(influence):
    with pytest.raises(InputError, match="probes=1: expected a whole number of at least 2"):
        split_hessian(influence.engine, probes=1)
