"""The examples are scripts beside the package: tests import their modules from where they lie.

With MNIST beside the repository (or in $WHEREFROM_DATA) the tests run on a thousand of its images; otherwise
on scikit-learn's digits, which the same functions take as arrays.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "koh_liang_2017"
sys.path.insert(0, str(EXAMPLE))

import experiment  # noqa: E402
import mnist  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """These problems are too small to share between threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _digits() -> tuple[mnist.Split, mnist.Split]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = x[order] / 16.0, y[order]
    return mnist.split_of(x[:1000], y[:1000]), mnist.split_of(x[1000:], y[1000:])


def _pooled(split: mnist.Split, count: int) -> mnist.Split:
    """The first images at 7 × 7 pixels, so that a dense Hessian of ten classes stays small."""
    images = split.x[:count].reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4))
    return mnist.split_of(images.reshape(len(images), 49), split.y[:count])


@pytest.fixture(scope="session")
def data_folder() -> Path | None:
    """The folder with MNIST, where there is one."""
    folder = experiment.default_data()
    if folder is None or not any(folder.glob("**/train-images-idx3-ubyte*")):
        return None
    return folder


@pytest.fixture(scope="session")
def splits(data_folder) -> tuple[mnist.Split, mnist.Split]:
    """Small training and test sets of real digits, ten classes."""
    if data_folder is None:
        return _digits()
    train, test = mnist.load_mnist(data_folder)
    return _pooled(train, 1000), _pooled(test, 800)
