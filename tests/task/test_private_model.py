"""The user's model is never touched; where a copy would be another function, the model itself is used."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.problems import labels, normal, seeded
from tests.support import Plain, cross_entropy
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.task import Objective
from wherefrom.task.private_model import private_copy

N = 12
X, Y = normal(N, 4), labels(N)


class Plainly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x)))


class Listed(Plainly):
    """Reaches its layers through attributes that are no modules."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.by_name = [self.first], {"second": (self.second,)}

    def forward(self, x: Tensor) -> Tensor:
        return self.by_name["second"][0](torch.tanh(self.layers[0](x)))


class Bound(Plainly):
    def __init__(self) -> None:
        super().__init__()
        self.run = functools.partial(self.step, scale=1.0)

    def step(self, x: Tensor, scale: float) -> Tensor:
        return self.first(x) * scale

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.run(x)))


class Closed(Plainly):
    """Closes over its own layer: a copy of the modules would still run the given one."""

    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: self.first(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.run(x)))


class Normed(Plainly):
    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(self.first)


class Hooked(Plainly):
    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(self.double_it)

    def double_it(self, module, given, made):
        return made * 2 * self.second.bias.sum()


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x[:, None])[0][:, -1])


MODELS = [
    Plainly,
    Listed,
    Bound,
    Closed,
    Hooked,
    Recurrent,
    pytest.param(Normed, marks=pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")),
]


def fit(model, **options) -> Influence:
    made = Influence(model, (X, Y), loss="cross_entropy", damping=0.1, progress=False, **options)
    return made.fit()


@pytest.mark.parametrize("build", MODELS)
def test_scores_are_those_of_plain_autograd_and_the_model_keeps_its_tensors(build):
    model = seeded(build)
    before = {name: (id(value), value._version) for name, value in model.named_parameters()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    found = fit(model, solver="identity").scores((X[:4], Y[:4])).values
    rows = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        cross_entropy(model(X[i : i + 1]), Y[i : i + 1]).sum(), list(model.parameters())
                    )
                ]
            )
            for i in range(N)
        ]
    )
    torch.testing.assert_close(found, rows[:4] @ rows.T, rtol=1e-9, atol=1e-12)
    assert before == {name: (id(value), value._version) for name, value in model.named_parameters()}
    assert hooks == [len(module._forward_hooks) for module in model.modules()]


@pytest.mark.parametrize("build", MODELS)
def test_the_model_that_runs_is_a_copy_unless_a_copy_is_another_function(build):
    model = seeded(build)
    objective = Objective(model, (X, Y), loss="cross_entropy")
    assert (objective.model is model) == (build is Closed)
    assert objective.given_model is model


def test_a_forward_that_closes_over_the_model_is_the_models_own():
    model = seeded(Plainly)
    made = fit(model, forward=lambda _, batch: model(batch[0]))
    torch.testing.assert_close(made.scores((X, Y)).values, fit(model).scores((X, Y)).values)
    model.train()
    with pytest.raises(InputError, match="the model changed after it was given"):
        made.scores((X, Y))


def test_scripted_models_are_used_as_they_are():
    model = torch.jit.script(seeded(Plainly))
    assert private_copy(model, {}) is None
    found = fit(model, solver="exact").scores((X, Y)).values
    torch.testing.assert_close(found, fit(seeded(Plainly), solver="exact").scores((X, Y)).values)


def test_exact_scores_of_a_copy_are_the_dense_ones():
    model = seeded(Listed)
    plain = Plain(seeded(Plainly), cross_entropy, (X, Y))
    made = Influence(
        model, (X, Y), loss="cross_entropy", curvature="hessian", solver="exact", damping=1.0, progress=False
    ).fit()
    g = plain.gradients()
    expected = g @ torch.linalg.solve(plain.hessian() + torch.eye(plain.p), g.T)
    torch.testing.assert_close(made.scores((X, Y)).values, expected, rtol=1e-8, atol=1e-10)
