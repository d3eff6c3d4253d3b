"""How loss, gradients, sharpness, the gradient bound and the weights' norms move while a network trains.

    python examples/training_monitor.py --data DIR --out out/monitor

Needs pandas (the `tables` extra). Prints whether the spectral norms of the weights start near zero, as a
linearised reading of the bound would want it: they do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from idx_images import available
from torch import nn

from wherefrom.studies.geometry import Monitor, plot_monitor, read_monitor


def train(name: str, data, out: Path, steps: int, every: int) -> None:
    x, y, test_x, test_y = data
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(x.shape[1], 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)
    )
    file = out / f"{name}.jsonl"
    file.unlink(missing_ok=True)
    monitor = Monitor(
        model,
        (x, y),
        held_out=(test_x, test_y),
        loss="cross_entropy",
        path=file,
        every=every,
        examples=64,
        probes=4,
        curvature="ggn",
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    order = torch.Generator().manual_seed(0)
    for step in range(steps + 1):
        monitor.step(step)
        batch = torch.randint(0, len(x), (64,), generator=order)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()
    table = read_monitor(file)
    plot_monitor(file, out / f"{name}.png")
    shown = [
        "loss.train",
        "loss.held_out",
        "gradient.squared_norm",
        "complexity.value",
        "sharpness.largest",
        "bounds.left",
        "bounds.right",
        "bounds.ratio",
    ]
    norms = [column for column in table.columns if column.startswith("weights.")]
    print(f"\n{name}: {monitor.seconds:.1f} s of records")
    print(table[shown + norms].iloc[[0, len(table) // 2, -1]].round(3).T.to_string())
    start = table[norms].iloc[0]
    near = "near zero" if start.max() < 0.1 else "not near zero"
    print(f"spectral norms at initialisation: {start.min():.2f} to {start.max():.2f}, {near}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder of the idx files; WHEREFROM_DATA otherwise")
    parser.add_argument("--out", type=Path, default=Path("out/monitor"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # so small a model gains nothing from more
    options.out.mkdir(parents=True, exist_ok=True)
    for name, data in available(["mnist", "fashion_mnist"], options.data, 5000, 2000).items():
        train(name, data, options.out, options.steps, options.every)


if __name__ == "__main__":
    main()
