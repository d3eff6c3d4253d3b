"""MNIST from its idx files, split the way the released code of Koh & Liang (2017) splits it."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_files import DataError, locate

HELD_OUT = 5_000  # the first training images are a validation set in the released code, never trained on
SUBFOLDERS = ("mnist", "MNIST/raw")
SOURCE = (
    "The four MNIST files can be had from https://ossci-datasets.s3.amazonaws.com/mnist/ or by "
    "torchvision.datasets.MNIST(DIR, download=True)."
)
FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class Split:
    """Images as rows of pixels in [0, 1] (float64), and one label each.

    Attributes:
        x: (n, d) pixels, row-major.
        y: (n,) labels, int64; digits 0…9, or −1/+1 after `pair`.
        source: (n,) row of each example in the split it was taken from.
    """

    x: np.ndarray
    y: np.ndarray
    source: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray | slice) -> Split:
        return Split(self.x[rows], self.y[rows], self.source[rows])

    def pair(self, positive: int, negative: int) -> Split:
        """The examples of two digits, in order, labelled +1 and −1."""
        rows = np.flatnonzero((self.y == positive) | (self.y == negative))
        kept = self.take(rows)
        return Split(kept.x, np.where(kept.y == positive, 1, -1), kept.source)


def split_of(x: np.ndarray, y: np.ndarray) -> Split:
    """A `Split` of arrays already in memory, pixels scaled to [0, 1] by the caller."""
    return Split(np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.int64), np.arange(len(y)))


def load_mnist(folder: str | Path) -> tuple[Split, Split]:
    """The 55,000 training images (rows 5,000 … 59,999) and the 10,000 test images.

    Raises:
        DataError: a file is absent or damaged; the message says where to get it and where it was looked for.
    """
    folder = Path(folder)
    arrays = {name: read_idx(locate(folder, stem, SUBFOLDERS, SOURCE)) for name, stem in FILES.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise DataError(
                f"the {part} files in {folder} do not belong together: images {images.shape}, labels "
                f"{labels.shape}; expected (n, rows, columns) and (n,). Fetch the four MNIST files again."
            )

    def to_split(part: str, first: int) -> Split:
        images = arrays[f"{part}_images"]
        pixels = images.reshape(len(images), -1)[first:].astype(np.float64) / 255.0
        return split_of(pixels, arrays[f"{part}_labels"][first:])

    return to_split("train", HELD_OUT), to_split("test", 0)


def read_idx(path: Path) -> np.ndarray:
    """Read one idx file of unsigned bytes, compressed or not, as an array of its own shape.

    Raises:
        DataError: wrong magic number, or fewer or more bytes than the header announces.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as stream:
            raw = stream.read()
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); fetch the file again.") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path} is not an idx file of unsigned bytes: it starts with {raw[:4]!r}.")
    dimensions = raw[3]
    header = 4 + 4 * dimensions
    if len(raw) < header:
        raise DataError(f"{path} ends inside its header; fetch the file again.")
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    values = np.frombuffer(raw, dtype=np.uint8, offset=header)
    if values.size != np.prod(shape):
        raise DataError(
            f"{path} announces {shape} values and holds {values.size}; it is cut short, fetch it again."
        )
    return values.reshape(shape)
