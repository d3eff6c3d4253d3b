"""Do bounds hold and estimates tell the size, over random settings? Against extended precision.

    python benchmarks/error_bounds.py [--settings 120] [--seed 0] [--out out/error_bounds]

Every setting is drawn from the seed: a model (softmax, binary logistic and linear regression, a small network
with its Gauss-Newton matrix), well fitted or not, data of scale 1e-6 to 1e6, weight decay 1e-6 to 1e-1,
float32 or float64, and a solver. The reference starts from the same parameters and data, cast up. A setting
may be refused by name, and a bound may be infinite; it may not be violated.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import wherefrom
from wherefrom.errors import WherefromError
from wherefrom.testing.extended import ExtendedModel, extended_scores

KINDS = ("softmax", "binary", "squared", "mlp softmax", "mlp squared")
LOSSES = {"softmax": "cross_entropy", "binary": "binary_cross_entropy", "squared": "squared_error"}
SOLVERS: dict[str, Any] = {
    "exact primal": wherefrom.Exact(space="primal"),
    "exact dual": wherefrom.Exact(space="dual"),
    "exact eigh": wherefrom.Exact("eigh", space="primal"),
    "cg": wherefrom.CG(),
    "cg rtol 1e-2": wherefrom.CG(rtol=1e-2),
    "cg 3 iterations": wherefrom.CG(max_iterations=3),
    "cg nystrom": wherefrom.CG(preconditioner=wherefrom.Nystrom(rank=8)),
    "lissa": wherefrom.LiSSA(repeats=4, batch_size=16, max_depth=400),
    "nystrom": wherefrom.Nystrom(rank=6),
    "arnoldi": wherefrom.Arnoldi(rank=8),
    "block diagonal": wherefrom.BlockDiagonal(),
    "datainf": wherefrom.DataInf(),
}
QUERIES = 8


@dataclass(frozen=True)
class Setting:
    kind: str
    solver: str
    dtype: str
    scale: float
    decay: float
    damping: float
    n: int
    inputs: int
    outputs: int
    noise: float
    seed: int

    @property
    def loss(self) -> str:
        return LOSSES[self.kind.removeprefix("mlp ")]


def draw(count: int, seed: int) -> list[Setting]:
    """Settings in which every kind, solver and dtype comes up, the rest at random."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        kind = KINDS[int(random.integers(len(KINDS)))]
        made.append(
            Setting(
                kind=kind,
                solver=list(SOLVERS)[i % len(SOLVERS)],
                dtype=("float32", "float64")[(i // len(SOLVERS)) % 2],
                scale=float(10 ** random.uniform(-6, 6)),
                decay=float(10 ** random.uniform(-6, -1)),
                damping=float(random.choice([0.0, 10 ** random.uniform(-6, -2)])),
                n=int(random.integers(20, 80)),
                inputs=int(random.integers(2, 8)),
                outputs=1 if kind == "binary" else int(random.integers(2, 6)),
                noise=float(random.choice([0.0, 0.0, 0.3, 1.0])),
                seed=int(random.integers(2**31)),
            )
        )
    return made


def problem(setting: Setting) -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A model trained in float64 (in units in which the data have size one), training data and queries, all
    in the setting's dtype."""
    generator = torch.Generator().manual_seed(setting.seed)
    dtype = getattr(torch, setting.dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    total = setting.n + QUERIES
    x = normal(total, setting.inputs)
    teacher = x @ normal(setting.inputs, setting.outputs) + setting.noise * normal(total, setting.outputs)
    if setting.loss == "cross_entropy":
        y = teacher.argmax(1)
    elif setting.loss == "binary_cross_entropy":
        y = (teacher > 0).double()
    else:
        y = teacher
    torch.manual_seed(setting.seed % 2**31)
    if setting.kind.startswith("mlp"):
        model: nn.Module = nn.Sequential(
            nn.Linear(setting.inputs, 5), nn.Tanh(), nn.Linear(5, setting.outputs)
        )
    else:
        model = nn.Sequential(nn.Linear(setting.inputs, setting.outputs))
    model = model.double()
    train(model, x[: setting.n], y[: setting.n], setting)
    with torch.no_grad():
        model[0].weight /= setting.scale
    x, model = (setting.scale * x).to(dtype), model.to(dtype)
    y = y.to(dtype) if y.is_floating_point() else y
    return model.eval(), (x[: setting.n], y[: setting.n]), (x[setting.n :], y[setting.n :])


def train(model: nn.Module, x: Tensor, y: Tensor, setting: Setting) -> None:
    """L-BFGS on the mean loss with the weight decay."""
    loss = wherefrom.losses.resolve_loss(setting.loss)
    optimiser = torch.optim.LBFGS(
        model.parameters(), max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-9
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        penalty = sum(p.square().sum() for p in model.parameters())
        value = loss(model(x), y).mean() + setting.decay / 2 * penalty
        value.backward()
        return value

    optimiser.step(closure)


def reference(setting: Setting, model: nn.Module, train: Any, queries: Any) -> Tensor:
    def wide(values: Tensor) -> np.ndarray:
        return values.detach().double().numpy().astype(np.longdouble)

    def pair(data: Any) -> Any:
        return wide(data[0]), data[1].numpy() if setting.loss == "cross_entropy" else wide(data[1])

    weights = tuple(wide(p) for p in model.parameters())
    scores = extended_scores(
        ExtendedModel(weights),
        pair(train),
        pair(queries),
        setting.loss,  # type: ignore[arg-type]
        setting.decay + setting.damping,
    )
    return torch.from_numpy(scores.astype(np.float64))


def measure(setting: Setting) -> dict[str, Any]:
    """Bounds and estimates of a setting against the truth; or `refused`, by name."""
    model, train, queries = problem(setting)
    row: dict[str, Any] = {"setting": setting.__dict__}
    try:
        influence = wherefrom.Influence(
            model,
            train,
            loss=setting.loss,
            weight_decay=setting.decay,
            curvature="ggn",
            solver=SOLVERS[setting.solver],
            damping=setting.damping,
            progress=False,
        ).fit()
        scores = influence.scores(queries)
    except WherefromError as error:
        return {**row, "refused": type(error).__name__, "why": str(error)[:200]}
    true = reference(setting, model, train, queries)
    error = (scores.values.double() - true).abs()
    bound, estimate = scores.bound.double(), scores.error.double()
    tiny = 1e-300
    ratio = (estimate.clamp(min=tiny) / error.clamp(min=tiny)).flatten()
    return {
        **row,
        "relative_error": float(error.norm() / true.norm().clamp(min=tiny)),
        "scores": error.numel(),
        "held": int((error <= bound).sum()),
        "worst": float((error / bound.clamp(min=tiny)).max()),
        "finite": bool(torch.isfinite(bound).all()),
        "bound_over_error": float((bound / error.clamp(min=tiny)).median()),
        "estimate_over_error": float(ratio.median()),
        "within_5": float(((ratio > 0.2) & (ratio < 5)).double().mean()),
        "converged": bool(scores.converged.all()),
    }


def line(row: dict[str, Any]) -> str:
    s = row["setting"]
    start = (
        f"| {s['kind']} | {s['solver']} | {s['dtype']} | {s['scale']:.0e} | {s['decay']:.0e} "
        f"| {s['damping']:.0e} "
    )
    if "refused" in row:
        return f"{start}| refused: {row['refused']} | | | |"
    return (
        f"{start}| {row['relative_error']:.1e} | {row['held'] / row['scores']:.1%} "
        f"| {row['bound_over_error']:.2g} | {row['estimate_over_error']:.2g} |"
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all settings that were not refused."""
    made = [row for row in rows if "refused" not in row]
    ratios = [row["estimate_over_error"] for row in made]
    scores = sum(row["scores"] for row in made)
    return {
        "settings": len(rows),
        "refused": len(rows) - len(made),
        "scores": scores,
        "held": sum(row["held"] for row in made) / max(scores, 1),
        "violated_settings": sum(row["held"] < row["scores"] for row in made),
        "worst": max((row["worst"] for row in made), default=0.0),
        "median_estimate_over_error": float(np.median(ratios)) if ratios else math.nan,
        "settings_within_5": sum(0.2 <= ratio <= 5 for ratio in ratios) / max(len(made), 1),
    }


def table(rows: list[dict[str, Any]], by: str) -> list[str]:
    """A line for every value of one of the settings, and dtype."""
    lines = [
        f"| {by} | dtype | settings | refused | bound holds | largest error / bound | estimate / error "
        "| settings within 5× |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = dict.fromkeys((row["setting"][by], row["setting"]["dtype"]) for row in rows)
    for key in sorted(keys):
        found = summary([row for row in rows if (row["setting"][by], row["setting"]["dtype"]) == key])
        lines.append(
            f"| {key[0]} | {key[1]} | {found['settings']} | {found['refused']} | {found['held']:.1%} "
            f"| {found['worst']:.2g} | {found['median_estimate_over_error']:.2g} "
            f"| {found['settings_within_5']:.0%} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/error_bounds"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    lines = [
        "| model | solver | dtype | data scale | decay | damping | error | bound holds | bound / error "
        "| estimate / error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for setting in draw(options.settings, options.seed):
        rows.append(measure(setting))
        lines.append(line(rows[-1]))
        print(lines[-1], flush=True)
    found = summary(rows)
    print(json.dumps(found, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "error_bounds.json").write_text(json.dumps({"summary": found, "rows": rows}, indent=1))
    lines = [*table(rows, "solver"), "", *table(rows, "kind"), "", *lines]
    (options.out / "error_bounds.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
