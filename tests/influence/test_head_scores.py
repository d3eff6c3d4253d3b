"""Influence of the head in closed form, against the definition by autograd and against `Influence`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, vmap

from wherefrom import Influence
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.gradients.last_layer import head_objective
from wherefrom.influence import FitOptions, compute_scores
from wherefrom.influence.head_scores import head_influence, head_scores
from wherefrom.solvers import CG
from wherefrom.task import Objective

N, Q, D, C = 30, 4, 5, 3
DAMPING, DECAY = 0.02, 0.01


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LABELS, QUERY_LABELS = torch.arange(N) % C, torch.arange(Q) % C
CASES = {
    "cross_entropy": (LABELS, QUERY_LABELS, lambda z, y: F.cross_entropy(z, y)),
    "squared_error": (normal(N, C, seed=8), normal(Q, C, seed=9), lambda z, y: 0.5 * (z - y).square().sum()),
    "feature_distance": (normal(N, C, seed=8), normal(Q, C, seed=9), lambda z, y: (z - y).norm()),
}


def by_autograd(plain, weight, bias, train, queries) -> Tensor:
    """`∇mᵀ (H + αI + λI)⁻¹ g` with explicit gradients and a dense Hessian."""
    shape, start = weight.shape, torch.cat([weight.reshape(-1)] + ([] if bias is None else [bias]))

    def one(theta: Tensor, e: Tensor, y: Tensor) -> Tensor:
        outputs = theta[: weight.numel()].view(shape) @ e
        return plain(outputs if bias is None else outputs + theta[weight.numel() :], y)

    g = vmap(grad(one), in_dims=(None, 0, 0))(start, *train)
    m = vmap(grad(one), in_dims=(None, 0, 0))(start, *queries)
    dense = hessian(lambda theta: vmap(one, in_dims=(None, 0, 0))(theta, *train).mean())(start)
    dense = dense + (DAMPING + DECAY) * torch.eye(len(start), dtype=torch.float64)
    return m @ torch.linalg.solve(dense, g.T)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("solver", ["auto", CG(rtol=1e-13)])
def test_equals_the_definition(name, has_bias, solver):
    targets, query_targets, plain = CASES[name]
    features, query_features, weight = normal(N, D), normal(Q, D, seed=1), normal(C, D, seed=2)
    bias = normal(C, seed=3) if has_bias else None
    expected = by_autograd(plain, weight, bias, (features, targets), (query_features, query_targets))
    scores = head_scores(
        features,
        targets,
        query_features,
        query_targets,
        weight=weight,
        bias=bias,
        loss=name,
        weight_decay=DECAY,
        damping=DAMPING,
        solver=solver,
    )
    torch.testing.assert_close(scores.values, expected, rtol=1e-8, atol=1e-9)
    assert scores.settings["structure"] == "linear head"


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, D), nn.Softplus())
        self.head = nn.Linear(D, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def seeded() -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Network().double().eval()


@pytest.mark.parametrize("measurement", ["loss", "margin"])
def test_agrees_with_influence_of_the_head(measurement):
    model, x, query = seeded(), normal(N, 6), (normal(Q, 6, seed=4), QUERY_LABELS)
    options = {"weight_decay": DECAY, "damping": DAMPING}
    expected = Influence(
        model, (x, LABELS), loss="cross_entropy", parameters=model.head, progress=False, **options
    ).fit()
    with torch.no_grad():
        features, query_features = model.body(x), model.body(query[0])
    scores = head_scores(
        features,
        LABELS,
        query_features,
        QUERY_LABELS,
        weight=model.head.weight,
        bias=model.head.bias,
        measurement=measurement,
        **options,
    )
    want = expected.scores(query, measurement).values
    torch.testing.assert_close(scores.values, want, rtol=1e-8, atol=1e-12)
    # From the network itself, its weight decay on every layer: only the head's remains.
    objective = Objective(model, (x, LABELS), loss="cross_entropy", weight_decay=DECAY)
    fitted = head_influence(objective, FitOptions(damping=DAMPING, progress=False))
    torch.testing.assert_close(compute_scores(fitted, query, measurement).values, want, rtol=1e-8, atol=1e-12)
    assert fitted.objective.parameters.names == ["head.weight", "head.bias"]
    assert objective.p > fitted.objective.p  # the objective given is as it was


def test_parameters_of_the_caller_are_not_touched_and_no_random_numbers_drawn():
    weight = normal(C, D).requires_grad_()
    state = torch.get_rng_state()
    head_scores(normal(N, D), LABELS, normal(Q, D), QUERY_LABELS, weight=weight, damping=0.1)
    assert torch.equal(state, torch.get_rng_state())
    assert weight.grad is None and torch.equal(weight.detach(), normal(C, D))


def test_weight_decay_and_other_regularisers_are_restricted_to_the_head():
    model, data = seeded(), (normal(N, 6), LABELS)
    decays = {"body": 0.5, "head.weight": 0.2}
    head = head_objective(Objective(model, data, loss="cross_entropy", weight_decay=decays))
    assert head.regulariser.per_name == {"head.weight": 0.2, "head.bias": 0.0}

    def cubes(values: dict[str, Tensor]) -> Tensor:
        return sum(value.pow(4).sum() for value in values.values()) * values["body.0.weight"].sum().square()

    full = Objective(model, data, loss="cross_entropy", regulariser=cubes)
    head = head_objective(full)
    scale = model.body[0].weight.sum().square()
    flat = head.parameters.flat()
    torch.testing.assert_close(
        head.regulariser.hessian().to_dense(), torch.diag(12 * flat.square() * scale).detach()
    )
    assert head.regulariser.settings()["regulariser"].endswith("of the head")


def test_outputs_of_the_head_objective_are_the_networks():
    model, data = seeded(), (normal(N, 6), LABELS)
    objective = Objective(model, data, loss="cross_entropy")
    head = head_objective(objective)
    batch = head.examples.batch([0, 3])
    moved = {name: value + 1 for name, value in head.parameters.values.items()}
    expected = functional_call(model, moved, (batch[0],))
    torch.testing.assert_close(head.outputs(moved, batch), expected)


def test_refusals():
    features, weight = normal(N, D), normal(C, D)
    with pytest.raises(InputError, match=f"features have {D} columns and weight has shape"):
        head_scores(features, LABELS, features, LABELS, weight=normal(C, D + 1))
    with pytest.raises(InputError, match="query_features have 2 columns"):
        head_scores(features, LABELS, normal(Q, 2), QUERY_LABELS, weight=weight)
    with pytest.raises(InputError, match=r"bias has shape \(2,\)"):
        head_scores(features, LABELS, features, LABELS, weight=weight, bias=normal(2))
    with pytest.raises(UnsupportedError, match="does not end in a linear layer"):
        model = nn.Sequential(nn.Linear(D, C), nn.Tanh()).double()
        head_influence(Objective(model, (features, LABELS), loss="cross_entropy"))
    frozen = seeded()
    frozen.head.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        head_objective(Objective(frozen, (normal(N, 6), LABELS), loss="cross_entropy"))
