"""Named tensors in safetensors files, with a few words about them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from whence.errors import StoreError
from whence.store.files import replacing


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
    """Write named tensors, all or nothing.

    Args:
        path: of the file; its directory is created if absent.
        tensors: of any device; written as they are, in contiguous form.
        words: kept in the file's header.

    Raises:
        StoreError: the file cannot be written; what was there before is still there.
    """
    # Copies where memory is shared: the format refuses two names for one storage.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=dict(words))
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: str | Path, device: torch.device) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and words of a file.

    Raises:
        StoreError: it cannot be read, or is no such file.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            words = dict(stream.metadata() or {})
            # Into memory of torch's own: at odd addresses products of matrices can round differently.
            tensors = {name: stream.get_tensor(name).clone().to(device) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}). Delete it to compute its content again."
        ) from error
    return tensors, words
