"""What a user may write in a file of their own: an attributor, and a study."""

from __future__ import annotations

from pathlib import Path

# Less than 30 lines, with the task around it.
TRACIN = '''
import torch, wherefrom
from torch import nn


class TracIn(wherefrom.Attributor):
    """Gradient products summed over checkpoints (Pruthi et al. 2020)."""

    name = "TracIn"

    def __init__(self, checkpoints, rate, train, loss):
        super().__init__(wherefrom.Objective(checkpoints[-1], train, loss=loss))
        self.rate = rate
        self.members = [
            wherefrom.Influence(model, train, loss=loss, solver="identity", progress=False).fit()
            for model in checkpoints
        ]

    def scores(self, queries, measurement="loss"):
        values = sum(self.rate * one.scores(queries, measurement).values for one in self.members)
        return self.scored(values, queries, measurement)
'''

TASK = """
generator = torch.Generator().manual_seed(0)
x = torch.randn(90, 3, generator=generator, dtype=torch.float64)
y = (x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0).long()
y[[3, 17]] = 1 - y[[3, 17]]
train, queries, validation = (x[:40], y[:40]), (x[40:46], y[40:46]), (x[50:], y[50:])
loss, class_names = "cross_entropy", ["below", "above"]
train_groups = ["left" if v < 0 else "right" for v in x[:40, 0]]


def trained(steps):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(train[0]), train[1]).backward()
        optimiser.step()
    return model.eval()


def recipe(data, seed):
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimiser.step()
    return model.eval()


model = trained(60)
"""

STUDY = '''
from dataclasses import dataclass
from typing import ClassVar

from wherefrom import Result, Study, option, trust_of
from wherefrom.report import Section, Words


@dataclass(frozen=True)
class Largest(Study):
    """Find the training example with the largest score of all."""

    name: ClassVar[str] = "largest"
    question: ClassVar[str] = "Which example matters most?"
    times: int = option(1, "How often it is said.", least=1)

    def run(self, attributor, task, say=lambda stage: None):
        scores = attributor.scores(task.queries).values
        return Found(task.name, self.times, int(scores.abs().max(0).values.argmax()), trust_of(attributor))


@dataclass(frozen=True)
class Found(Result):
    name: str
    times: int
    train: int
    trust: object

    def section(self):
        return Section(self.name, self.trust, [Words(f"train {self.train}. " * self.times)])

    def summary(self):
        return {"train": self.train}
'''


def tracin_task(folder: Path) -> Path:
    """A task file whose attributor is TracIn over two checkpoints."""
    file = folder / "tracin_task.py"
    made = "\nattributor = TracIn([trained(5), trained(60)], 0.5, train, loss)\n"
    file.write_text(TRACIN + TASK + made, encoding="utf-8")
    return file
