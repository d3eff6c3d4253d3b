"""A task file small enough to audit in a second, and its variations."""

from __future__ import annotations

import csv
from pathlib import Path

from typer.testing import CliRunner

from wherefrom.cli.main import app

TABLE = """
import torch
from torch import nn
import wherefrom

generator = torch.Generator().manual_seed(0)
x = torch.randn(60, 3, generator=generator, dtype=torch.float64)
y = (x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0).long()
train, queries = (x[:40], y[:40]), (x[40:], y[40:])
loss, weight_decay = "cross_entropy", 0.1
class_names = ["below", "above"]
torch.manual_seed(0)
recipe = wherefrom.FullBatch(nn.Linear(3, 2), loss=loss, weight_decay=weight_decay)
model = recipe(train, 0).eval()
helper = "names of one's own are left alone"
"""

TEXT = """
import torch
from torch import nn
import wherefrom

words = ["good", "bad", "fine", "awful"]
texts = [f"{a} {b}" for a in words for b in words]
labels = [int("bad" not in t and "awful" not in t) for t in texts]

def collate(items):
    counts = torch.tensor([[t.split().count(w) for w in words] for t, _ in items], dtype=torch.float64)
    return counts, torch.tensor([label for _, label in items])

def task():
    items = list(zip(texts, labels))
    counts, targets = collate(items)
    torch.manual_seed(0)
    train = wherefrom.FullBatch(nn.Linear(4, 2), loss="cross_entropy", weight_decay=0.1)
    return {
        "model": train((counts, targets), 0).eval(),
        "train": items,
        "queries": items[3:5],
        "loss": "cross_entropy",
        "weight_decay": 0.1,
        "collate": collate,
        "recipe": lambda data, seed: train(collate([data[i] for i in range(len(data))]), seed),
        "name": "Words",
    }
"""


def write(folder: Path, text: str, *, name: str = "my_task.py") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def run(*arguments: object, columns: int = 80):
    """A command in a terminal so wide."""
    width = {"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    return CliRunner(env=width).invoke(app, list(map(str, arguments)))


def csv_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))
