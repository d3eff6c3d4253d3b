"""Small images for the examples: MNIST and Fashion-MNIST from their idx files, or scikit-learn's digits."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

FOLDERS = {"mnist": ("mnist", "MNIST/raw"), "fashion_mnist": ("fashion_mnist", "FashionMNIST/raw")}
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
Data = tuple[Tensor, Tensor, Tensor, Tensor]  # train x, y, test x, y


def available(names: list[str], folder: str | None, n_train: int, n_test: int) -> dict[str, Data]:
    """Those of the data sets that are there, images as rows of pixels in [0, 1]; the digits always."""
    base = folder or os.environ.get("WHEREFROM_DATA")
    found: dict[str, Data] = {}
    for name in names:
        places = [Path(base) / sub for sub in FOLDERS[name]] if base else []
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            print(
                f"{name}: not found. Pass --data DIR (or set WHEREFROM_DATA), a folder with the idx files in "
                f"DIR/{FOLDERS[name][0]}; torchvision.datasets downloads them. Going on with the digits."
            )
            continue
        x, y, test_x, test_y = (_idx(place, file) for file in FILES)
        found[name] = (*_images(x, y, n_train), *_images(test_x, test_y, n_test))
    found["digits"] = _digits()
    return found


def _digits() -> Data:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = torch.as_tensor(images[order] / 16, dtype=torch.float32), torch.as_tensor(labels[order])
    return x[:800], y[:800], x[800:], y[800:]


def _images(x: np.ndarray, y: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    pixels = torch.as_tensor(x[:n].reshape(min(n, len(x)), -1) / 255, dtype=torch.float32)
    return pixels, torch.as_tensor(y[:n].astype(np.int64))


def _idx(folder: Path, name: str) -> np.ndarray:
    packed = folder / f"{name}.gz"
    content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)
