"""The two benchmark tasks, built once as .npz files that every competitor loads.

Parameters are trained in float64 and then rounded to float32, inputs likewise, and the reference is
computed in float64 *at the rounded values*: the reference is the exact answer to the question that the
float32 competitors are asked, so their error is theirs alone.

A file holds ``X, y`` (train), ``Xq, yq`` (queries), ``weight_i`` (outputs × inputs) and ``bias_i`` for
each linear layer, ``weight_decay`` (α of the objective ``mean loss + (α/2)‖θ‖²``) and ``damping`` (λ).
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

SEED = 0
DIGITS_WEIGHT_DECAY = 0.01
# docs/benchmarks.md, "The tasks", says how the pair was chosen.
MLP_WEIGHT_DECAY = 0.005
MLP_DAMPING = 0.05
QUICK_MLP_DAMPING = 0.2  # its short training leaves more negative curvature
MLP_WIDTHS = (784, 256, 128, 10)

TASKS = ("digits", "mlp")


def build(name: str, path: Path, data: Path | None, quick: bool) -> None:
    """Writes the task ``name`` to ``path``; ``data`` holds ``mnist/*.gz``, ``None`` means synthetic."""
    maker: Callable[[], dict[str, np.ndarray]] = {
        "digits": lambda: _digits(quick),
        "mlp": lambda: _mlp(data, quick),
    }[name]
    arrays = maker()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def find_data(given: str | None) -> Path | None:
    """The data folder: ``--data``, else ``WHEREFROM_DATA``, else ``../shared/data`` beside the repository."""
    named = given or os.environ.get("WHEREFROM_DATA")
    if named is not None:
        folder = Path(named)
        if not _mnist_file(folder, "train-images-idx3-ubyte.gz").exists():
            raise SystemExit(f"--data {folder}: expected mnist/train-images-idx3-ubyte.gz in it, found none")
        return folder
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if _mnist_file(folder, "train-images-idx3-ubyte.gz").exists() else None


def sequential(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them; one width pair gives a softmax regression."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1])] + ([nn.ReLU()] if i < len(widths) - 2 else [])
    return nn.Sequential(*layers)


def _digits(quick: bool) -> dict[str, np.ndarray]:
    X, y = _sklearn_digits()
    order = np.random.default_rng(SEED).permutation(len(y))
    train, query = (order[:300], order[1500:1520]) if quick else (order[:1500], order[1500:])
    X = X.reshape(len(y), 64)
    model = _train(X[train], y[train], (64, 10), DIGITS_WEIGHT_DECAY, adam_steps=0)
    return _pack(model, X[train], y[train], X[query], y[query], DIGITS_WEIGHT_DECAY, 0.0)


def _mlp(data: Path | None, quick: bool) -> dict[str, np.ndarray]:
    n, q, pool = (300, 5, 25) if quick else (2000, 40, 200)
    X, y, Xq, yq = _synthetic(n, pool) if data is None else _mnist(data, n, pool)
    model = _train(X, y, MLP_WIDTHS, MLP_WEIGHT_DECAY, adam_steps=50 if quick else 400)
    hardest = _losses(model, Xq, yq).argsort()[::-1][:q]
    return _pack(
        model, X, y, Xq[hardest], yq[hardest], MLP_WEIGHT_DECAY, QUICK_MLP_DAMPING if quick else MLP_DAMPING
    )


def _losses(model: nn.Sequential, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Per-example losses. The queries are the held-out images of largest loss: those are the ones a user
    asks about, and a gradient ``p − y`` with ``p`` within 1e-5 of ``y`` has no four good digits in float32.
    """
    with torch.no_grad():
        logits = model(torch.tensor(X, dtype=torch.float64))
        return nn.functional.cross_entropy(
            logits, torch.tensor(y, dtype=torch.int64), reduction="none"
        ).numpy()


def _train(
    X: np.ndarray, y: np.ndarray, widths: tuple[int, ...], decay: float, adam_steps: int
) -> nn.Sequential:
    """Full-batch training in float64: Adam to reach a basin, then L-BFGS to its bottom."""
    torch.manual_seed(SEED)
    model = sequential(widths).double()
    inputs, labels = torch.tensor(X, dtype=torch.float64), torch.tensor(y, dtype=torch.int64)

    def objective() -> Tensor:
        penalty = sum((p * p).sum() for p in model.parameters())
        return nn.functional.cross_entropy(model(inputs), labels) + 0.5 * decay * penalty

    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(adam_steps):
        adam.zero_grad()
        objective().backward()
        adam.step()
    lbfgs = torch.optim.LBFGS(
        model.parameters(),
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        lbfgs.zero_grad()
        value = objective()
        value.backward()
        return value

    lbfgs.step(closure)
    return model


def _pack(
    model: nn.Sequential,
    X: np.ndarray,
    y: np.ndarray,
    Xq: np.ndarray,
    yq: np.ndarray,
    decay: float,
    damping: float,
) -> dict[str, np.ndarray]:
    arrays = {
        "X": X.astype(np.float32),
        "y": y.astype(np.int64),
        "Xq": Xq.astype(np.float32),
        "yq": yq.astype(np.int64),
        "weight_decay": np.float64(decay),
        "damping": np.float64(damping),
    }
    for i, layer in enumerate(m for m in model if isinstance(m, nn.Linear)):
        arrays[f"weight_{i}"] = layer.weight.detach().numpy().astype(np.float32)
        arrays[f"bias_{i}"] = layer.bias.detach().numpy().astype(np.float32)
    return arrays


def _sklearn_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16.0, digits.target


def _synthetic(n: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """MNIST-sized stand-in: scikit-learn's digits enlarged to 28 × 28, shifted and blurred by noise."""
    from scipy.ndimage import shift, zoom

    images, labels = _sklearn_digits()
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(labels))
    chosen = np.concatenate([order[q:], rng.choice(order[q:], max(0, n + q - len(labels)))])[:n]

    def enlarge(index: int, moved: bool) -> np.ndarray:
        image = np.clip(zoom(images[index], 3.5, order=1), 0.0, 1.0)
        if moved:
            image = shift(image, rng.integers(-2, 3, size=2), order=0)
            image = image + rng.normal(0.0, 0.05, image.shape)
        return np.clip(image, 0.0, 1.0).ravel()

    X = np.stack([enlarge(i, True) for i in chosen])
    Xq = np.stack([enlarge(i, False) for i in order[:q]])
    return X, labels[chosen], Xq, labels[order[:q]]


def _mnist(data: Path, n: int, q: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(SEED)
    train, query = rng.choice(60_000, n, replace=False), rng.choice(10_000, q, replace=False)

    def pixels(name: str, rows: np.ndarray) -> np.ndarray:
        return _idx(_mnist_file(data, f"{name}-images-idx3-ubyte.gz"))[rows].reshape(len(rows), 784) / 255.0

    def labels(name: str, rows: np.ndarray) -> np.ndarray:
        return _idx(_mnist_file(data, f"{name}-labels-idx1-ubyte.gz"))[rows]

    return pixels("train", train), labels("train", train), pixels("t10k", query), labels("t10k", query)


def _mnist_file(data: Path, name: str) -> Path:
    return data / "mnist" / name


def _idx(path: Path) -> np.ndarray:
    """An idx file: magic whose last byte is the number of dimensions, big-endian sizes, then bytes."""
    raw = gzip.decompress(path.read_bytes())
    dims = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=dims, offset=4)
    return np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape)
