"""Two classes of CIFAR-10 for Figures 4 and 5, and a network trained on the eight others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import convnet
import numpy as np
from cifar10 import CLASSES, Images, joined

PER_CLASS = 900  # training images, as in the paper
PAIR = (2, 6)  # bird and frog: with them most images are left to test, 474


@dataclass(frozen=True)
class Pair:
    """Images of two classes, labelled −1 and +1.

    Attributes:
        train, test: 8-bit images with such labels.
        names: of the classes −1 and +1.
        others: images of the other classes, with their own labels.
    """

    train: Images
    test: Images
    names: tuple[str, str]
    others: Images


def pair_of(train: Images, test: Images, pair: tuple[int, int] = PAIR, per_class: int = PER_CLASS) -> Pair:
    """The first `per_class` training images of each class to train on, what is left of both sets to test.

    Raises:
        ValueError: a class has too few training images.
    """
    rows = [np.flatnonzero(train.y == label) for label in pair]
    if min(map(len, rows)) < per_class:
        raise ValueError(
            f"per_class={per_class}, and the classes have {[len(r) for r in rows]} training images"
        )
    kept = train.take(np.concatenate([r[:per_class] for r in rows]))
    left = [train.take(np.concatenate([r[per_class:] for r in rows])), test.take(np.isin(test.y, pair))]
    return Pair(
        _signed(kept, pair),
        _signed(joined(*left), pair),
        (_name(pair[0]), _name(pair[1])),
        train.take(~np.isin(train.y, pair)),
    )


def network_for(pair: Pair, folder: Path, *, quick: bool) -> convnet.Trained:
    """The network, which has seen neither of the two classes; trained once for each output folder."""
    if quick:
        return convnet.trained(pair.others.take(slice(0, 2560)), convnet.Settings(epochs=2), folder)
    return convnet.trained(pair.others, convnet.Settings(), folder)


def _signed(images: Images, pair: tuple[int, int]) -> Images:
    return Images(images.pixels, np.where(images.y == pair[1], 1, -1))


def _name(label: int) -> str:
    return CLASSES[label]
