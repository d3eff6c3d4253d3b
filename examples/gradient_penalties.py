"""Training with each gradient penalty: test accuracy, sharpness and gradient norms side by side.

python examples/gradient_penalties.py --data DIR --out out/penalties
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from idx_images import available
from matplotlib.figure import Figure
from torch import nn

from wherefrom.curvature import choose_curvature
from wherefrom.gradients import GradientEngine
from wherefrom.linalg import lanczos_spectrum
from wherefrom.studies.geometry import input_gradient_penalty, jacobian_penalty, parameter_gradient_penalty
from wherefrom.task import Objective

RATE = 0.1
PENALTIES = {
    "none": lambda model, x, y: 0.0,
    "input gradient, 1": lambda model, x, y: input_gradient_penalty(model, "cross_entropy", x, y),
    "parameter gradient, 0.1": lambda model, x, y: (
        0.1 * parameter_gradient_penalty(model, "cross_entropy", x, y)
    ),
    "Jacobian, 0.01, 1 probe": lambda model, x, y: 0.01 * jacobian_penalty(model, x),
}
COLUMNS = ("test accuracy", "λ_max", "‖∇_x ℓ‖²", "‖∇_θ L‖²", "‖∂f/∂x‖²")


def train(penalty, data, steps: int, seed: int) -> nn.Module:
    x, y = data[:2]
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.Tanh(), nn.Linear(64, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    for _ in range(steps):
        batch = torch.randint(0, len(x), (64,))
        optimiser.zero_grad()
        (
            nn.functional.cross_entropy(model(x[batch]), y[batch]) + penalty(model, x[batch], y[batch])
        ).backward()
        optimiser.step()
    return model.eval()


def measure(model: nn.Module, data) -> list[float]:
    """The numbers of `COLUMNS`: accuracy on all test examples, the rest on 300 training examples."""
    x, y, test_x, test_y = data
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).float().mean())
    x, y = x[:300], y[:300]
    hessian = choose_curvature(GradientEngine(Objective(model, (x, y), loss="cross_entropy")), "hessian")
    return [
        accuracy,
        lanczos_spectrum(hessian.operator, steps=20, starts=1).largest,
        float(input_gradient_penalty(model, "cross_entropy", x, y).detach()),
        float(parameter_gradient_penalty(model, "cross_entropy", x, y).detach()),
        float(jacobian_penalty(model, x, probes=None).detach()),
    ]


def plot(found: dict[str, np.ndarray], out: Path) -> None:
    """Bars of the means over the seeds relative to no penalty, and the seeds as dots."""
    figure = Figure(figsize=(9, 3.2 * len(found)), layout="constrained")
    for row, (name, values) in enumerate(found.items()):
        axes = figure.add_subplot(len(found), 1, row + 1)
        relative = values / values[0].mean(0)
        for k, label in enumerate(PENALTIES):
            at = np.arange(len(COLUMNS)) + 0.2 * (k - 1.5)
            axes.bar(at, relative[k].mean(0) - 1, 0.18, bottom=1, label=label)
            for seed in relative[k]:
                axes.plot(at, seed, ".", color="black", markersize=3)
        axes.set_yscale("log")  # the numbers differ by orders of magnitude
        axes.set_xticks(range(len(COLUMNS)), COLUMNS)
        axes.set_ylabel("relative to no penalty")
        axes.set_title(name, fontsize=10)
        axes.legend(fontsize=7)
    figure.savefig(out, dpi=90)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the idx files; WHEREFROM_DATA otherwise")
    parser.add_argument("--out", type=Path, default=Path("out/penalties"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, np.ndarray] = {}
    for name, data in available(["mnist"], options.data, 2000, 5000).items():
        runs = [
            [measure(train(penalty, data, options.steps, seed), data) for seed in range(options.seeds)]
            for penalty in PENALTIES.values()
        ]
        found[name] = np.array(runs)
        print(f"\n{name}: mean ± standard deviation over {options.seeds} seeds")
        print(" " * 26 + "".join(f"{column:>20}" for column in COLUMNS))
        for label, run in zip(PENALTIES, found[name]):
            cells = (f"{mean:.4g} ± {std:.2g}" for mean, std in zip(run.mean(0), run.std(0)))
            print(f"{label:26}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    plot(found, options.out / "penalties.png")


if __name__ == "__main__":
    main()
