"""Small subsets of small images: MNIST and Fashion-MNIST at 14 × 14 pixels, digits at 8 × 8."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "koh_liang_2017"))

from data_files import locate
from mnist import FILES, read_idx

FOLDERS = {"mnist": ("mnist", "MNIST/raw"), "fashion_mnist": ("fashion_mnist", "FashionMNIST/raw")}
SOURCES = {
    "mnist": "torchvision.datasets.MNIST(DIR, download=True) fetches the four files.",
    "fashion_mnist": "torchvision.datasets.FashionMNIST(DIR, download=True) fetches the four files.",
}


@dataclass(frozen=True)
class ImageSet:
    """Images `(n, 1, side, side)` in [0, 1] (float32) with labels 0 … 9, for training and for testing."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def side(self) -> int:
        return self.train[0].shape[-1]


def load(name: str, folder: Path | None, train: int, test: int) -> ImageSet:
    """The first `train` training and `test` test images of `"mnist"`, `"fashion_mnist"` or `"digits"`.

    The digits come with scikit-learn, in a fixed random order, and need no folder.

    Raises:
        DataError: a file is not in `folder`; the message says where to get it.
    """
    if name == "digits":
        return _digits(train, test)
    # The two sets call their files by the same names: each is looked for in its own subfolders.
    root = Path() if folder is None else folder
    homes = [root / sub for sub in FOLDERS[name] if (root / sub).is_dir()] or [root / FOLDERS[name][0]]
    arrays = {
        key: torch.from_numpy(read_idx(locate(homes[0], stem, (), SOURCES[name])).copy())
        for key, stem in FILES.items()
    }

    def part(kind: str, count: int) -> tuple[Tensor, Tensor]:
        pixels = arrays[f"{kind}_images"][:count].float().unsqueeze(1) / 255.0
        return torch.nn.functional.avg_pool2d(pixels, 2), arrays[f"{kind}_labels"][:count].long()

    return ImageSet(part("train", train), part("test", test))


def default_data() -> Path | None:
    """$WHEREFROM_DATA, else `../shared/data` beside the repository, where it exists."""
    if os.environ.get("WHEREFROM_DATA"):
        return Path(os.environ["WHEREFROM_DATA"])
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return beside if beside.is_dir() else None


def _digits(train: int, test: int) -> ImageSet:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: train + test]
    x = torch.from_numpy(images[order] / 16.0).float().view(-1, 1, 8, 8)
    y = torch.from_numpy(labels[order]).long()
    return ImageSet((x[:train], y[:train]), (x[train:], y[train:]))
