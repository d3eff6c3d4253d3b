"""Arrays as pictures inside the page: PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.image import imsave
from rich.text import Text

from wherefrom.errors import InputError

# Larger pictures are averaged down: the page shows thumbnails.
_LARGEST_SIDE = 192


Scale = tuple[float, float]

_SHADES = " ░▒▓█"
_WIDEST_PICTURE = 12


def to_rgb(image: np.ndarray, scale: Scale | None = None) -> np.ndarray:
    """`(h, w, 3)` or `(h, w, 4)` bytes of a picture `(h, w)`, `(c, h, w)` or `(h, w, c)`.

    Args:
        image: bytes 0..255, or other numbers.
        scale: the values shown as black and as white; what lies outside is cut off. `None`: 0 and 1, or, for
            a picture outside them, its own ends.

    Raises:
        InputError: another shape.
    """
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (3, 4):
        array = np.moveaxis(array, 0, 2)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise InputError(
            f"a card's image has shape {np.shape(image)}; expected (h, w), (c, h, w) or (h, w, c) with "
            "c = 1, 3 or 4"
        )
    scaled = _to_unit(array, scale)
    factor = -(-max(scaled.shape[:2]) // _LARGEST_SIDE)
    if factor > 1:
        h, w = (side // factor * factor for side in scaled.shape[:2])
        scaled = scaled[:h, :w].reshape(h // factor, factor, w // factor, factor, -1).mean(axis=(1, 3))
    pixels = np.round(scaled * 255).astype(np.uint8)
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels


def data_uri(image: np.ndarray, scale: Scale | None = None) -> str:
    """The picture as a `data:` URI, so that the page needs no other file."""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(to_rgb(image, scale)), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def common_scale(images: Sequence[np.ndarray]) -> Scale | None:
    """Black and white for all pictures of a data set, from some of them: their smallest and largest value.
    `None` where none is needed: bytes, and values from 0 to 1."""
    numbers = [np.asarray(image) for image in images]
    numbers = [array for array in numbers if array.dtype not in (np.bool_, np.uint8) and array.size]
    numbers = [array[np.isfinite(array)] for array in numbers]
    ends = [(float(array.min()), float(array.max())) for array in numbers if array.size]
    if not ends:
        return None
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    if (low >= 0.0 and high <= 1.0) or not low < high:
        return None
    if low >= 0.0 and high <= 255.0 and all(np.array_equal(array, np.round(array)) for array in numbers):
        return (0.0, 255.0)
    return (low, high)


def _to_unit(array: np.ndarray, scale: Scale | None) -> np.ndarray:
    if array.dtype == bool or array.dtype == np.uint8:
        return array.astype(np.float64) / (1 if array.dtype == bool else 255)
    values = np.nan_to_num(array.astype(np.float64))
    if scale is not None:
        return np.clip((values - scale[0]) / (scale[1] - scale[0]), 0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0.0 and high <= 1.0:
        return values
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def block_picture(image: np.ndarray, scale: tuple[float, float] | None = None) -> Text:
    """A small picture in block characters, two to a pixel to be square; larger ones are averaged down."""
    grey = to_rgb(image, scale)[:, :, :3].mean(axis=2) / 255
    factor = -(-max(grey.shape) // _WIDEST_PICTURE)
    if factor > 1:
        h, w = (max(1, side // factor) for side in grey.shape)
        grey = grey[: h * factor, : w * factor].reshape(h, factor, w, -1).mean(axis=(1, 3))
    levels = np.minimum((grey * len(_SHADES)).astype(int), len(_SHADES) - 1)
    return Text("\n".join("".join(_SHADES[level] * 2 for level in row) for row in levels), no_wrap=True)
