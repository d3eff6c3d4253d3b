"""What the adapters of this benchmark share.

A method answers one question for one seed: `f(problem, settings, seed) -> (numbers, products)`. The file it
leaves has a row per seed: the numbers, then how many Hessian products they took. The questions:

- `eigenvalues`: the 10 largest, in any order;
- `trace`: one number;
- `density`: the nodes of the quadrature, then its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import common
import numpy as np
import problems
import torch

EIGENVALUES = 10
Answer = tuple[Any, int]
Method = Callable[[problems.Problem, dict[str, Any], int], Answer]


def main(methods: Mapping[str, Method], package: str, version: str | None = None) -> None:
    """The command line of an adapter (see `common.run_adapter`)."""
    common.run_adapter(
        {name: _each_seed(method) for name, method in methods.items()},
        problems.load,
        problems.toy,
        package,
        version,
    )


def quadrature(nodes: Any, weights: Any) -> np.ndarray:
    """Nodes and weights of all starts in one row; the weights of all sum to 1."""
    nodes, weights = np.asarray(nodes, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    return np.concatenate([nodes.ravel(), weights.ravel() / weights.sum()])


def _each_seed(method: Method) -> Callable[[problems.Problem, dict[str, Any], common.Stages], np.ndarray]:
    def run(problem: problems.Problem, settings: dict[str, Any], stages: common.Stages) -> np.ndarray:
        rows = []
        for seed in settings["seeds"]:
            torch.manual_seed(seed)
            numbers, products = method(problem, settings, seed)
            rows.append([*np.asarray(numbers, dtype=np.float64).ravel(), products])
        return np.array(rows)

    return run
