"""The grid of networks of the generalisation study: learning rate × batch size × seed, same training loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from row_files import RowFile
from safetensors.torch import save_file
from small_images import ImageSet
from small_networks import descend, loss_and_accuracy, network

TARGET = 0.05  # mean training loss at which every network stops
MAX_STEPS = 15_000
LEARNING_RATES = {"mlp": (0.1, 0.2, 0.5), "cnn": (0.1, 0.2, 0.3)}
BATCH_SIZES = (10, 50, 250)


@dataclass(frozen=True)
class Net:
    """One network of the grid: where it comes from."""

    data: str
    kind: str
    lr: float
    batch_size: int
    seed: int

    @property
    def key(self) -> str:
        return f"{self.data}-{self.kind}-lr{self.lr:g}-b{self.batch_size}-s{self.seed}"


def grid(data: Sequence[str], kinds: Sequence[str], seeds: int) -> Iterator[Net]:
    """All networks, data set by data set."""
    for kind, name in itertools.product(kinds, data):
        for seed, lr, size in itertools.product(range(seeds), LEARNING_RATES[kind], BATCH_SIZES):
            yield Net(name, kind, lr, size, seed)


def train_net(net: Net, images: ImageSet, out: Path, rows: RowFile) -> dict[str, Any]:
    """Train one network, save its parameters, and write its row; a row that is there is returned as it is."""
    if net.key in rows.rows:
        return rows.rows[net.key]
    model = network(net.kind, images.side, net.seed)
    steps, _ = descend(
        model,
        images.train,
        lr=net.lr,
        batch_size=net.batch_size,
        target=TARGET,
        max_steps=MAX_STEPS,
        seed=net.seed,
    )
    train, test = loss_and_accuracy(model, images.train), loss_and_accuracy(model, images.test)
    (out / "nets").mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.detach() for name, value in model.named_parameters()},
        str(out / "nets" / f"{net.key}.safetensors"),
    )
    row = {
        "key": net.key,
        **asdict(net),
        "steps": steps,
        "train_loss": train[0],
        "train_accuracy": train[1],
        "test_loss": test[0],
        "test_accuracy": test[1],
        "reached": train[0] <= TARGET,
    }
    rows.add(row)
    return row


def load_net(net: Net, side: int, out: Path) -> torch.nn.Module:
    """The trained network, in double precision."""
    from safetensors.torch import load_file

    model = network(net.kind, side, net.seed)
    model.load_state_dict(load_file(str(out / "nets" / f"{net.key}.safetensors")))
    return model.double().eval()
