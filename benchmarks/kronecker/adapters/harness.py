"""What the adapters of this benchmark share: loading a task, its loss, per-example gradients, the command
line.

An adapter is a script with a table `method → function(problem, settings, stages) → scores (queries × train)`,
stages `fit` and `scores`. It runs alone in its library's environment, so this file needs torch and NumPy
only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import models
import numpy as np
import torch
from common import Stages
from torch import Tensor, nn

__all__ = ["Problem", "Stages", "main"]


@dataclass(frozen=True)
class Problem:
    """A trained float32 network, its data, the modules to attribute and the absolute damping."""

    kind: str
    config: dict[str, Any]
    model: nn.Module
    modules: list[str]
    X: Tensor
    y: Tensor
    Xq: Tensor
    yq: Tensor
    damping: float

    @property
    def tokens(self) -> int:
        """Terms in an example's loss: the length of a sequence, else one."""
        return self.y[0].numel()

    @property
    def parameter_names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters() if name.rpartition(".")[0] in self.modules]

    def copied_model(self) -> nn.Module:
        """For libraries that leave hooks on a model or replace its modules."""
        return copy.deepcopy(self.model)

    def head(self, train: int, query: int) -> Problem:
        return replace(self, X=self.X[:train], y=self.y[:train], Xq=self.Xq[:query], yq=self.yq[:query])


Method = Callable[[Problem, dict[str, Any], Stages], np.ndarray]


class ClassesSecond(nn.Module):
    """The layout of torch's own cross-entropy: `(b, c, t)`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).movedim(-1, 1)


def main(methods: Mapping[str, Method], package: str, version: str | None = None) -> None:
    """Warm up on a dozen examples, run once on all of them, write scores and a report to `--out`."""
    common.run_adapter(methods, load, lambda problem: problem.head(12, 3), package, version)


def load(path: Path) -> Problem:
    z = np.load(path)
    kind, config = str(z["kind"]), json.loads(str(z["config"]))
    model = models.build(kind, config).eval()
    state = {name.removeprefix("state."): torch.from_numpy(z[name]) for name in z.files if "state." in name}
    model.load_state_dict(state)
    data = [torch.from_numpy(z[name]) for name in ("X", "y", "Xq", "yq")]
    return Problem(kind, config, model, models.attributed(kind, model), *data, float(z["damping"]))


def sum_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, classes last, summed over examples and positions."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")


def sampled_loss(outputs: Tensor) -> Tensor:
    """The same for labels drawn from the model: its gradients are those of the true Fisher."""
    with torch.no_grad():
        labels = torch.multinomial(outputs.softmax(-1).flatten(0, -2), 1).squeeze(1)
    return sum_loss(outputs, labels)


def per_example_gradients(problem: Problem, X: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients of the attributed parameters by `torch.func`, `(examples, *shape)` each, for libraries that
    leave this to their user."""
    everything = {name: p.detach() for name, p in problem.model.named_parameters()}
    chosen = {name: everything[name] for name in problem.parameter_names}

    def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        outputs = torch.func.functional_call(problem.model, {**everything, **parameters}, x[None])
        return sum_loss(outputs, target[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(chosen, X, y)
    return list(gradients.values())
