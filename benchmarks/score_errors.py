"""Do the errors that come with scores tell the truth? Bounds and estimates against dense float64 autograd.

    python benchmarks/score_errors.py [--out out/score_errors]

For each model, solver and precision: the share of scores whose true error is within the bound, the median of
bound / true error, the median of estimate / true error, and the share of estimates within a factor of five.
`refine` rows look at the examples shown only (five most helpful and harmful), where the training side is
solved too.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import wherefrom
from wherefrom.testing import DenseProblem

TRAIN, QUERIES = 300, 40
SOLVERS = {
    "exact": (wherefrom.Exact(), 0),
    "cg, rtol 1e-2": (wherefrom.CG(rtol=1e-2), 0),
    "cg, rtol 1e-4": (wherefrom.CG(rtol=1e-4), 0),
    "cg, rtol 1e-2, refine": (wherefrom.CG(rtol=1e-2), 5),
    "lissa, 8 repeats": (wherefrom.LiSSA(repeats=8, batch_size=32, bias=1e-3, max_depth=2000), 0),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))


def problems() -> dict[str, tuple[nn.Module, float, str]]:
    """Name -> model, weight decay, curvature."""
    return {
        "softmax regression": (nn.Linear(64, 10), 0.01, "hessian"),
        "MLP 64-12-10, GGN": (mlp(), 0.01, "ggn"),
        "MLP 64-12-10, Hessian": (mlp(), 0.02, "hessian"),
        "conv net, GGN": (
            nn.Sequential(
                nn.Unflatten(1, (1, 8, 8)),
                nn.Conv2d(1, 4, 3, padding=1),
                nn.Tanh(),
                nn.AvgPool2d(2),
                nn.Flatten(),
                nn.Linear(64, 10),
            ),
            0.01,
            "ggn",
        ),
    }


def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(images / 16)[order], torch.as_tensor(labels)[order]


def reference(model: nn.Module, decay: float, curvature: str, train, queries, damping: float) -> Tensor:
    """`∇mᵀ (C + (α + λ)I)⁻¹ g` with every matrix dense, in float64, by plain autograd."""
    dense = DenseProblem(model, lambda m: m(train[0]), lambda f: cross_entropy(f, train[1], reduction="none"))
    asked = DenseProblem(
        model, lambda m: m(queries[0]), lambda f: cross_entropy(f, queries[1], reduction="none")
    )
    matrix = dense.hessian() if curvature == "hessian" else dense.ggn()
    matrix.diagonal().add_(decay + damping)
    return asked.gradients() @ torch.linalg.solve(matrix, dense.gradients().T)


def row(scores: wherefrom.Scores, true: Tensor, shown: int) -> dict[str, float]:
    error = (scores.values.double() - true).abs()
    if shown:
        order = scores.values.argsort(1)
        pick = torch.zeros_like(error, dtype=torch.bool)
        pick.scatter_(1, torch.cat([order[:, :shown], order[:, -shown:]], 1), True)
    else:
        pick = torch.ones_like(error, dtype=torch.bool)
    error, bound, estimate = error[pick], scores.bound[pick].double(), scores.error[pick].double()
    ratio = estimate / error
    return {
        "relative_error": float(error.norm() / true[pick].norm()),
        "bound_holds": float((error <= bound).double().mean()),
        "bound_over_error": float((bound / error).median()),
        "estimate_over_error": float(ratio.median()),
        "within_5": float(((ratio > 0.2) & (ratio < 5)).double().mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/score_errors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", DeprecationWarning)
    x, y = digits()
    train, queries = (x[:TRAIN], y[:TRAIN]), (x[TRAIN : TRAIN + QUERIES], y[TRAIN : TRAIN + QUERIES])
    results = []
    lines = [
        "| model | solver | dtype | error | bound holds | bound / error | estimate / error | within 5× |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (untrained, decay, curvature) in problems().items():
        recipe = wherefrom.FullBatch(
            untrained, loss="cross_entropy", weight_decay=decay, warm_start=False, gradient_tolerance=1e-6
        )
        model = recipe(train, 0).eval()
        for solver_name, (solver, refine) in SOLVERS.items():
            for dtype in (torch.float64, torch.float32):
                influence = wherefrom.Influence(
                    model,
                    train,
                    loss="cross_entropy",
                    weight_decay=decay,
                    curvature=curvature,
                    solver=solver,
                    damping=0.01,
                    dtype=dtype,
                    hvp_mode="reverse_over_reverse",
                ).fit()
                scores = influence.scores(queries, refine=refine)
                true = reference(model, decay, curvature, train, queries, 0.01)
                found = row(scores, true, refine)
                kind = str(dtype).removeprefix("torch.")
                results.append({"model": name, "solver": solver_name, "dtype": kind, **found})
                lines.append(
                    f"| {name} | {solver_name} | {kind} | {found['relative_error']:.1e} "
                    f"| {found['bound_holds']:.1%} | {found['bound_over_error']:.3g} "
                    f"| {found['estimate_over_error']:.3g} | {found['within_5']:.0%} |"
                )
                print(lines[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "score_errors.json").write_text(json.dumps(results, indent=1))
    (options.out / "score_errors.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
