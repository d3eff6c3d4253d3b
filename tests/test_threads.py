"""Threads with one Influence, Influences of one model, and a thread that uses the model beside them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from tests.problems import labels, normal, seeded
from wherefrom import Influence

X, Y = normal(24, 4), labels(24)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(x))))


class Closed(Net):
    """Of which there can be no copy: it closes over its own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.run = lambda x: self.first(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.norm(self.run(x))))


def fit(model: nn.Module, solver: str, **options) -> Influence:
    made = Influence(
        model, (X, Y), loss="cross_entropy", solver=solver, damping=0.1, progress=False, **options
    )
    return made.fit()


def together(tasks: list[Callable[[], Tensor]]) -> list[Tensor]:
    """All at once, started at a barrier."""
    barrier = threading.Barrier(len(tasks))

    def run(task: Callable[[], Tensor]) -> Tensor:
        barrier.wait()
        return task()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(run, tasks))


@pytest.mark.parametrize("solver", ["exact", "ekfac"])
@pytest.mark.parametrize("build", [Net, Closed])
def test_threads_get_what_one_thread_gets(build, solver):
    model = seeded(build)
    tensors = {name: id(value) for name, value in model.named_parameters()}
    made = fit(model, solver)
    queries = [(X[i : i + 3], Y[i : i + 3]) for i in range(4)]
    expected = [made.scores(q).values for q in queries]
    own = made.self_scores().values
    moved = made.parameter_influence([0, 5])
    for _ in range(2):
        found = together(
            [
                *[lambda q=q: made.scores(q).values for q in queries],
                lambda: made.self_scores().values,
                lambda: made.parameter_influence([0, 5]),
            ]
        )
        for one, other in zip(found, [*expected, own, moved]):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert tensors == {name: id(value) for name, value in model.named_parameters()}
    assert all(isinstance(value, nn.Parameter) for _, value in model.named_parameters())


@pytest.mark.parametrize("build", [Net, Closed])
def test_influences_of_one_model_at_once(build):
    model = seeded(build)
    tensors = {name: id(value) for name, value in model.named_parameters()}
    ways = [("exact", None), ("ekfac", None), ("exact", "second"), ("identity", "first")]

    def scores(solver: str, parameters: str | None) -> Tensor:
        return fit(model, solver, parameters=parameters).scores((X[:3], Y[:3])).values

    expected = [scores(*way) for way in ways]
    found = together([lambda way=way: scores(*way) for way in ways])
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert tensors == {name: id(value) for name, value in model.named_parameters()}


def test_a_users_thread_may_use_and_train_the_model_meanwhile():
    model = seeded(Net)
    made = fit(model, "exact")
    expected = made.scores((X[:3], Y[:3])).values
    stop, failures = threading.Event(), []

    def train() -> None:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        while not stop.is_set():
            try:
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(X), Y).backward()
                assert all(isinstance(p, nn.Parameter) and p.grad is not None for p in model.parameters())
                optimiser.step()
            except Exception as error:
                failures.append(error)
                return

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(5):
            torch.testing.assert_close(made.scores((X[:3], Y[:3])).values, expected)
    finally:
        stop.set()
        thread.join()
    assert not failures
