"""The problems, built once as .npz files that every library loads: a float32 network trained on MNIST, and
the examples over which the Hessian of its mean cross-entropy is taken."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import networks
import numpy as np
import torch
from torch import Tensor, nn

SEED = 0
TRAIN, EPOCHS, BATCH = 5000, 3, 100


@dataclass(frozen=True)
class Problem:
    """`X` `(n, 1, 28, 28)`, `y` `(n,)`, and the network in the dtype that was asked for."""

    kind: str
    model: nn.Sequential
    X: Tensor
    y: Tensor

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def build(kind: str, path: Path, data: Path | None, n: int) -> None:
    """Trains `kind` by Adam on 5000 digits; writes it with the first `n` of them."""
    import tasks

    train = max(TRAIN, n) if data is not None else n
    X, y, _, _ = tasks._synthetic(train, 10) if data is None else tasks._mnist(data, train, 10)
    inputs = torch.tensor(X, dtype=torch.float32).reshape(-1, 1, networks.SIDE, networks.SIDE)
    labels = torch.tensor(y, dtype=torch.int64)
    torch.manual_seed(SEED)
    model = networks.build(kind)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels)).split(BATCH):
            adam.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            adam.step()
    state = {f"state.{name}": value.numpy() for name, value in model.state_dict().items()}
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, kind=np.array(kind), X=inputs[:n].numpy(), y=labels[:n].numpy(), **state)
    os.replace(partial, path)


def load(path: Path, dtype: torch.dtype = torch.float32) -> Problem:
    z = np.load(path)
    kind = str(z["kind"])
    model = networks.build(kind)
    model.load_state_dict(
        {k.removeprefix("state."): torch.from_numpy(z[k]) for k in z.files if "state." in k}
    )
    return Problem(kind, model.to(dtype).eval(), torch.from_numpy(z["X"]).to(dtype), torch.from_numpy(z["y"]))


def toy(problem: Problem) -> Problem:
    """A few examples, and for the perceptron a narrower one: what a first call sets up is set up on this."""
    torch.manual_seed(0)
    return Problem(problem.kind, networks.build(problem.kind, 16).eval(), problem.X[:16], problem.y[:16])
