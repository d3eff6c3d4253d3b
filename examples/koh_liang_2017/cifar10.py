"""CIFAR-10: the first training batch and the first 1,000 test images, from arrays or official binaries."""

from __future__ import annotations

import io
import lzma
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_files import DataError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
TRAIN, TEST = 10_000, 1_000  # training batch 1, and as many of the test images
SIDE, CHANNELS = 32, 3
SUBFOLDERS = ("", "cifar10", "cifar-10-batches-bin")
ARRAYS = {
    "train": ("train_batch1_images.npy.xz", "train_labels_50000.npy", TRAIN),
    "test": ("test1000_images.npy.xz", "test1000_labels.npy", TEST),
}
BINARIES = {"train": ("data_batch_1.bin", TRAIN), "test": ("test_batch.bin", TEST)}


@dataclass(frozen=True)
class Images:
    """Colour images of 8 bits a channel, and one label each.

    Attributes:
        pixels: (n, 3, height, width) uint8.
        y: (n,) labels, int64.
    """

    pixels: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray | slice) -> Images:
        return Images(self.pixels[rows], self.y[rows])


def joined(*parts: Images) -> Images:
    """All images of the parts, in order."""
    return Images(np.concatenate([part.pixels for part in parts]), np.concatenate([part.y for part in parts]))


def load_cifar10(folder: str | Path) -> tuple[Images, Images]:
    """The 10,000 images of training batch 1, and the first 1,000 test images.

    Raises:
        DataError: a file is absent or damaged; the message says where to get it and where it was looked for.
    """
    folder = Path(folder)
    for sub in SUBFOLDERS:
        if all((folder / sub / name).is_file() for names in ARRAYS.values() for name in names[:2]):
            return tuple(_from_arrays(folder / sub, *names) for names in ARRAYS.values())  # type: ignore[return-value]
        if all((folder / sub / name).is_file() for name, _ in BINARIES.values()):
            return tuple(_from_binary(folder / sub / name, count) for name, count in BINARIES.values())  # type: ignore[return-value]
    raise DataError(
        f"CIFAR-10 was not found in {folder} (nor in its subfolders {' and '.join(SUBFOLDERS[1:])}). Pass "
        "--data DIR, or set the environment variable WHEREFROM_DATA, to a folder with the files "
        "data_batch_1.bin and test_batch.bin of the binary version, "
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, "
        "or with the same images as NumPy arrays: "
        f"{', '.join(name for names in ARRAYS.values() for name in names[:2])}."
    )


def _from_arrays(folder: Path, images: str, labels: str, count: int) -> Images:
    try:
        pixels = np.load(io.BytesIO(lzma.decompress((folder / images).read_bytes())), allow_pickle=False)
        y = np.load(folder / labels, allow_pickle=False)[:count]
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise DataError(
            f"{images} or {labels} in {folder} cannot be read ({error}); fetch it again."
        ) from error
    if pixels.shape != (count, SIDE, SIDE, CHANNELS) or pixels.dtype != np.uint8 or y.shape != (count,):
        raise DataError(
            f"{images} and {labels} in {folder} hold {pixels.dtype} {pixels.shape} and {y.shape}; expected "
            f"uint8 {(count, SIDE, SIDE, CHANNELS)} and at least {count} labels. Fetch them again."
        )
    return _checked(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), y, folder / labels)


def _from_binary(path: Path, count: int) -> Images:
    row = 1 + CHANNELS * SIDE * SIDE  # a label, then the planes of red, green and blue
    raw = np.fromfile(path, dtype=np.uint8)
    if len(raw) % row or len(raw) < count * row:
        raise DataError(
            f"{path} holds {len(raw)} bytes; expected at least {count} rows of {row}. Fetch the file again."
        )
    rows = raw.reshape(-1, row)[:count]
    return _checked(rows[:, 1:].reshape(count, CHANNELS, SIDE, SIDE), rows[:, 0], path)


def _checked(pixels: np.ndarray, y: np.ndarray, path: Path) -> Images:
    if y.min() < 0 or y.max() >= len(CLASSES):
        raise DataError(f"{path} holds labels {y.min()} … {y.max()}; expected 0 … {len(CLASSES) - 1}.")
    return Images(pixels, y.astype(np.int64))
