"""Whole contractions on small networks: whatever the memory and the plan, the scores of the dense inverse."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import wherefrom.solvers.contraction.run as running
from tests.contraction.contraction_problems import NETWORKS, Contraction, contraction
from wherefrom.solvers.contraction import BlockPlan, Plan, contract, plan_contraction


def run(case: Contraction, plan: Plan) -> Tensor:
    found = torch.full((case.q, case.n), float("nan"), dtype=torch.float64)

    def put(these: slice, where: slice, scores: Tensor) -> None:
        found[these, where] = scores.T

    contract(plan, case.inverses, case.queries, case.train, progress=False, on_batch=put)
    return found


def plan_of(case: Contraction, rtol: float) -> Plan:
    return plan_contraction(case.inverses, case.queries, case.train, rtol=rtol)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("solver", ["ekfac", "kfac", "identity"])
def test_exact_plans_are_exact(name: str, solver: str) -> None:
    case = contraction(NETWORKS[name], solver)
    made = plan_of(case, 0.0)
    assert made.exact and made.measured_error == 0 and (made.queries, made.train) == (case.q, case.n)
    expected = case.dense()
    torch.testing.assert_close(run(case, made), expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rtol", [0.3, 1e-2])
@pytest.mark.parametrize("method", ["cheapest", "low rank", "query rank"])
def test_approximate_plans_are_off_by_what_they_state(
    name: str, rtol: float, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method != "cheapest":  # taken wherever it can be
        monkeypatch.setattr(BlockPlan, "seconds", property(lambda plan: float(plan.method != method)))
    case = contraction(NETWORKS[name], "ekfac")
    made = plan_of(case, rtol)
    expected = case.dense()
    errors = (run(case, made) - expected).norm(dim=1) / expected.norm(dim=1)
    if method == "query rank" or (method == "low rank" and name == "dense"):
        assert any(block.method == method for block in made.blocks)
    if made.exact:
        assert float(errors.max()) < 1e-10
        return
    assert made.measured_on == (case.q, case.n)
    assert made.measured_error <= rtol
    assert float(errors.square().mean().sqrt()) == pytest.approx(made.measured_error, rel=1e-5)
    assert float(errors.max()) == pytest.approx(made.worst_error, rel=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rtol", [0.0, 0.3])
def test_memory_changes_nothing(name: str, rtol: float) -> None:
    plenty, scarce = (
        contraction(NETWORKS[name], "ekfac", memory=memory)
        for memory in (2**30, 2**15 if name == "dense" else 2**17)
    )
    made = plan_of(plenty, rtol)
    # Few queries fit at once.
    assert scarce.train.layers.objective.memory * 0.5 < made.state_bytes * scarce.q
    expected = run(plenty, made)
    torch.testing.assert_close(
        run(scarce, made), expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max())
    )


def test_measured_within_the_memory() -> None:
    case = contraction(NETWORKS["dense"], "ekfac", memory=2**16)
    made = plan_of(case, 0.3)
    assert not made.exact and made.measured_on[0] < case.q and made.measured_error <= 0.3


def test_a_plan_that_misses_is_made_again_or_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    case = contraction(NETWORKS["dense"], "ekfac")
    asked: list[float] = []
    planner: Callable[..., Plan] = running.make_plan

    def recorded(*args: object, rtol: float, **options: object) -> Plan:
        asked.append(rtol)
        return planner(*args, rtol=rtol, **options)

    def missed(plan: Plan, *_: object) -> Plan:
        return plan.measured(torch.tensor([1.0]), (1, 1))

    monkeypatch.setattr("wherefrom.solvers.contraction.planner._EXPANSION_SECONDS", 0.0)
    monkeypatch.setattr(running, "make_plan", recorded)
    monkeypatch.setattr(running, "_measured", missed)
    assert plan_of(case, 0.3).exact
    assert asked[-1] == 0 and asked[:-1] == sorted(asked[:-1], reverse=True) and len(asked) > 2


def test_the_processors_state_is_left_as_it_was() -> None:
    case = contraction(NETWORKS["dense"], "identity")
    run(case, plan_of(case, 0.0))
    assert float(torch.tensor(torch.finfo(torch.float32).tiny) / 2) > 0
