"""The models whose training labels are looked at, and what Wherefrom says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from noisy_labels import TASKS, LabelTask
from torch import Tensor, nn

from wherefrom import EKFAC, FullBatch, Influence
from wherefrom.studies.labels import LabelAudit, label_signals

FOLDS = 5


@dataclass(frozen=True)
class Setting:
    """A model on a data set.

    Attributes:
        key, words: short name and what the table calls it.
        task: of `TASKS`.
        weight_decay: `α`; for the linear models as chosen by accuracy on the validation set from 3e-2 … 1e-4,
            or far too small on purpose.
        hidden: units of an MLP's layer; 0 for softmax regression.
        seeds: of flips and splits; seeds 0 and 1 served to choose the combination.
    """

    key: str
    words: str
    task: str
    weight_decay: float
    hidden: int = 0
    seeds: tuple[int, ...] = (2, 3)


SETTINGS = {
    setting.key: setting
    for setting in (
        Setting("enron1", "Enron1, logistic regression", "enron1", 1e-2, seeds=(2, 3, 4, 5, 6)),
        Setting("enron1-loose", "Enron1, hardly regularised", "enron1", 1e-4, seeds=(2, 3, 4, 5)),
        Setting("mnist", "MNIST, softmax regression", "mnist", 3e-3),
        Setting("mnist-loose", "MNIST, hardly regularised", "mnist", 1e-4),
        Setting("mnist-mlp", "MNIST, MLP (EK-FAC)", "mnist", 1e-4, hidden=64, seeds=(2, 3, 4)),
        Setting("yoruba", "Yoruba titles, real noise", "yoruba", 1e-4, seeds=(0,)),
    )
}  # fmt: skip


def load(setting: Setting, folder: Path, seed: int, quick: bool) -> LabelTask:
    """The task of a setting, with its weight decay; `quick` keeps a tenth of the training examples."""
    task = replace(TASKS[setting.task](folder, seed), weight_decay=setting.weight_decay)
    if not quick:
        return task
    kept = slice(0, len(task.given) // 10)
    return replace(task, x=task.x[kept], given=task.given[kept], true=task.true[kept])


def trained(setting: Setting, task: LabelTask, x: np.ndarray, y: np.ndarray, seed: int) -> nn.Module:
    """The model fitted to these examples: a linear one to the optimum, an MLP by 30 epochs of Adam."""
    inputs, targets = _tensor(x), torch.from_numpy(y)
    if not setting.hidden:
        model = nn.Linear(x.shape[1], task.classes)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        recipe = FullBatch(
            model, loss="cross_entropy", weight_decay=task.weight_decay, gradient_tolerance=1e-5
        )
        return recipe((inputs, targets), seed).float().eval()
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(x.shape[1], setting.hidden), nn.ReLU(), nn.Linear(setting.hidden, task.classes)
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=task.weight_decay)
    for _ in range(30):
        for batch in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimiser.step()
    return model.eval()


def probabilities(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """`(n, c)` in float64."""
    with torch.no_grad():
        return model(_tensor(x)).double().softmax(1).numpy()


def cross_validated(setting: Setting, task: LabelTask, seed: int) -> np.ndarray:
    """Probabilities of each example by a model trained without its fold, `FOLDS` trainings."""
    fold = np.random.default_rng(seed).permutation(len(task.given)) % FOLDS
    made = np.empty((len(task.given), task.classes))
    for k in range(FOLDS):
        inside = fold != k
        model = trained(setting, task, task.x[inside], task.given[inside], seed)
        made[~inside] = probabilities(model, task.x[~inside])
    return made


def signals(setting: Setting, task: LabelTask, model: nn.Module) -> LabelAudit:
    """What Wherefrom says of the labels, with the clean validation set."""
    influence = Influence(
        model,
        (_tensor(task.x), torch.from_numpy(task.given)),
        loss="cross_entropy",
        weight_decay=task.weight_decay,
        solver=EKFAC() if setting.hidden else "exact",
        progress=False,
    ).fit()
    return label_signals(influence, (_tensor(task.x_validation), torch.from_numpy(task.y_validation)))


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()
