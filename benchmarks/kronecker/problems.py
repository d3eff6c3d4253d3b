"""The tasks, built once as .npz files that every library loads.

A file holds `X, y` (train), `Xq, yq` (queries), `kind` and `config` of the network (JSON), its trained
float32 parameters as `state.<name>`, and `damping`: a tenth of the mean eigenvalue of the attributed
layers' Gauss-Newton blocks, one absolute number, since that is what all libraries take. A `-reduced` task
is the first examples and queries of the full one under the same network and damping.

The loss of an example is the cross-entropy summed over its positions (64 for a sequence, else one), the
objective the mean over examples: with a sum, gradients of sampled labels square to the Gauss-Newton matrix.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pydoc_data.topics
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import numpy as np
import torch
from torch import Tensor, nn

SEED = 0
LENGTH = 64
VOCABULARY = 1000


@dataclass(frozen=True)
class Size:
    """Training examples and queries."""

    train: int
    query: int


SIZES = {
    "mlp": Size(10_000, 200),
    "mlp-reduced": Size(2_000, 40),
    "resnet": Size(5_000, 100),
    "resnet-reduced": Size(1_000, 25),
    "gpt2": Size(2_000, 50),
    "gpt2-reduced": Size(400, 20),
}
QUICK = {
    "mlp": Size(300, 6),
    "mlp-reduced": Size(100, 4),
    "resnet": Size(60, 4),
    "resnet-reduced": Size(40, 3),
    "gpt2": Size(30, 4),
    "gpt2-reduced": Size(20, 3),
}
CONFIGS: dict[str, dict[str, Any]] = {
    "mlp": {"widths": [784, 256, 128, 10]},
    "resnet": {"channels": 3, "widths": [32, 64, 128], "classes": 10},
    "gpt2": {"vocabulary": VOCABULARY, "length": LENGTH, "width": 128, "heads": 4, "depth": 4},
}
EPOCHS = {"mlp": 3, "resnet": 4, "gpt2": 3}
BATCH = {"mlp": 100, "resnet": 50, "gpt2": 20}


def build(name: str, path: Path, data: Path | None, quick: bool) -> None:
    """Writes the task `name`; `data` is the folder with MNIST, CIFAR-10 and WikiText-2, `None` means
    scikit-learn's digits, enlarged, and the topics of Python's own documentation."""
    kind = name.removesuffix("-reduced")
    sizes = QUICK if quick else SIZES
    full, size = sizes[kind], sizes[name]
    X, y, Xq, yq = _SOURCES[kind](data, full)
    model = _train(kind, X, y, 1 if quick else EPOCHS[kind])
    arrays = {
        "X": X[: size.train],
        "y": y[: size.train],
        "Xq": Xq[: size.query],
        "yq": yq[: size.query],
        "kind": np.array(kind),
        "config": np.array(json.dumps(CONFIGS[kind])),
        "damping": np.float64(_damping(kind, model, torch.from_numpy(X[:256]))),
    }
    arrays |= {f"state.{key}": value.numpy() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def find_data(given: str | None) -> Path | None:
    """The data folder: `--data`, else `WHEREFROM_DATA`, else `../shared/data` beside the repository."""
    named = given or os.environ.get("WHEREFROM_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "data"
    if (folder / "mnist" / "train-images-idx3-ubyte.gz").exists():
        return folder
    if named:
        raise SystemExit(f"--data {folder}: expected mnist/train-images-idx3-ubyte.gz in it, found none")
    return None


def summed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, classes last, summed over everything."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten(), reduction="sum")


def _train(kind: str, X: np.ndarray, y: np.ndarray, epochs: int) -> nn.Module:
    torch.manual_seed(SEED)
    model = models.build(kind, CONFIGS[kind])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs, targets = torch.from_numpy(X), torch.from_numpy(y)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(BATCH[kind]):
            optimiser.zero_grad()
            (summed_loss(model(inputs[rows]), targets[rows]) / targets[rows].numel()).backward()
            optimiser.step()
    return model.eval()


def _damping(kind: str, model: nn.Module, X: Tensor) -> float:
    """0.1 · E‖g‖²/p over sampled labels, the mean eigenvalue of the Fisher's layer blocks, to two digits."""
    generator = torch.Generator().manual_seed(SEED)
    parameters = [
        p for name in models.attributed(kind, model) for p in model.get_submodule(name).parameters()
    ]
    squares = 0.0
    for x in X:
        outputs = model(x[None])
        probabilities = outputs.detach().softmax(-1).flatten(0, -2)
        labels = torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
        gradients = torch.autograd.grad(summed_loss(outputs, labels), parameters)
        squares += sum(float((g.double() ** 2).sum()) for g in gradients)
    mean = squares / len(X) / sum(p.numel() for p in parameters)
    return float(f"{0.1 * mean:.1e}")


def _images(data: Path | None, size: Size) -> tuple[np.ndarray, ...]:
    if data is None:
        X, y = _digits(28, size.train + size.query)
        X = X.reshape(len(X), 784)
        return X[: size.train], y[: size.train], X[size.train :], y[size.train :]
    folder = data / "mnist"
    parts = [
        (_idx(folder / f"{part}-images-idx3-ubyte.gz"), _idx(folder / f"{part}-labels-idx1-ubyte.gz"))
        for part in ("train", "t10k")
    ]
    (X, y), (Xq, yq) = [
        ((x.reshape(len(x), 784) / 255.0).astype(np.float32), labels.astype(np.int64)) for x, labels in parts
    ]
    return X[: size.train], y[: size.train], Xq[: size.query], yq[: size.query]


def _colour_images(data: Path | None, size: Size) -> tuple[np.ndarray, ...]:
    if data is None:
        X, y = _digits(32, size.train + size.query)
        X = np.repeat(X[:, None], 3, axis=1)
        return X[: size.train], y[: size.train], X[size.train :], y[size.train :]
    folder = data / "cifar10"
    X = _xz(folder / "train_batch1_images.npy.xz")
    y = np.load(folder / "train_labels_50000.npy").astype(np.int64)
    rows = slice(size.train, size.train + size.query)
    X = (X.transpose(0, 3, 1, 2) / 127.5 - 1.0).astype(np.float32)
    return X[: size.train], y[: size.train], X[rows], y[rows]


def _sequences(data: Path | None, size: Size) -> tuple[np.ndarray, ...]:
    if data is None:
        text = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
        words = re.findall(r"\w+|[^\w\s]", text)
        cut = len(words) * size.train // (size.train + size.query)
        train, query = words[:cut], words[cut:]
    else:
        train, query = (
            gzip.decompress((data / "text" / f"wikitext2_{part}.txt.gz").read_bytes()).decode().split()
            for part in ("valid", "test")
        )
    common = [word for word, _ in Counter(train).most_common(VOCABULARY - 1)]
    code = {word: i + 1 for i, word in enumerate(common)}
    X, y = _windows([code.get(word, 0) for word in train], size.train)
    Xq, yq = _windows([code.get(word, 0) for word in query], size.query)
    return X, y, Xq, yq


_SOURCES: dict[str, Callable[[Path | None, Size], tuple[np.ndarray, ...]]] = {
    "mlp": _images,
    "resnet": _colour_images,
    "gpt2": _sequences,
}


def _windows(codes: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    if len(codes) < count * LENGTH + 1:
        raise SystemExit(f"text of {len(codes)} words: expected at least {count * LENGTH + 1}")
    stream = np.array(codes[: count * LENGTH + 1], dtype=np.int64)
    return stream[:-1].reshape(count, LENGTH), stream[1:].reshape(count, LENGTH)


def _digits(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 8 × 8 digits, enlarged, repeated with noise to `count` images in [0, 1]."""
    from sklearn.datasets import load_digits

    rng, digits = np.random.default_rng(SEED), load_digits()
    rows = rng.permutation(np.arange(count) % len(digits.target))
    small = torch.from_numpy(digits.images[rows].astype(np.float32) / 16.0)[:, None]
    large = nn.functional.interpolate(small, size=(side, side), mode="bilinear")[:, 0].numpy()
    noise = 0.1 * rng.normal(size=large.shape).astype(np.float32)
    return np.clip(large + noise, 0.0, 1.0), digits.target[rows].astype(np.int64)


def _idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3]))
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _xz(path: Path) -> np.ndarray:
    return np.load(io.BytesIO(lzma.decompress(path.read_bytes())))
