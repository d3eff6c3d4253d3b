"""Named tensors in safetensors files, with a few words about them and a checksum of the whole file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wherefrom.errors import StoreError
from wherefrom.store.files import replacing
from wherefrom.store.sealed import BROKEN, SEAL, UNSEALED

RECOMPUTE = "Delete it to compute its content again."
# Stands in the header while the file is hashed; the checksum then takes its place.
_BLANK = b"0" * 64
_SEALED = re.compile(rb'"%s":"([0-9a-f]{64})"' % SEAL.encode())
_LENGTH = 8  # bytes before the header, which hold its length
_LARGEST_HEADER = 100_000_000  # of the format
_CHUNK = 1 << 20


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> None:
    """Write named tensors, all or nothing.

    Args:
        path: of the file; its directory is created if absent.
        tensors: of any device; written as they are, in contiguous form.
        words: kept in the file's header, beside a SHA-256 of the file.

    Raises:
        StoreError: the file cannot be written; what was there before is still there.
    """
    # Copies where memory is shared: the format refuses two names for one storage.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata={**words, SEAL: _BLANK.decode()})
        except SafetensorError as error:
            raise OSError(str(error)) from error
        with temporary.open("rb+") as stream:
            _sort_header(stream)
            stream.seek(0)
            at, _, found = _checksum(stream)
            stream.seek(at)
            stream.write(found)


def read_tensors(
    path: str | Path, device: torch.device | str = "cpu", *, advice: str = RECOMPUTE
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and words of a file that `write_tensors` wrote.

    Args:
        path: of the file.
        device: where the tensors go.
        advice: what to do about a file that cannot be used, for the error.

    Raises:
        StoreError: it cannot be read, has no checksum, or another one than its content.
    """
    try:
        with Path(path).open("rb") as stream:
            _, written, found = _checksum(stream)
        if written != found:
            raise StoreError(f"{path} cannot be used: {BROKEN}. {advice}")
        with safe_open(path, framework="pt") as opened:
            words = {name: value for name, value in (opened.metadata() or {}).items() if name != SEAL}
            # Into memory of torch's own: at odd addresses products of matrices can round differently.
            tensors = {name: opened.get_tensor(name).clone().to(device) for name in opened.keys()}  # noqa: SIM118
    except StoreError:
        raise
    except ValueError as error:
        raise StoreError(f"{path} cannot be used: {error}. {advice}") from error
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read ({error}). {advice}") from error
    return tensors, words


def _sort_header(stream: BinaryIO) -> None:
    """The format's library writes words in any order: sorted, the same content is the same file."""
    length = int.from_bytes(stream.read(_LENGTH), "little")
    header = json.loads(stream.read(length))
    words = dict(sorted(header.pop("__metadata__").items()))
    made = json.dumps({"__metadata__": words, **header}, ensure_ascii=False, separators=(",", ":")).encode()
    if len(made) <= length:
        stream.seek(_LENGTH)
        stream.write(made.ljust(length))


def _checksum(stream: BinaryIO) -> tuple[int, bytes, bytes]:
    """Where a file's checksum stands, what stands there, and what should.

    Raises:
        ValueError: none is found.
    """
    length = int.from_bytes(start := stream.read(_LENGTH), "little")
    header = stream.read(length) if length <= _LARGEST_HEADER else b""
    places = list(_SEALED.finditer(header))
    if len(start) < _LENGTH or len(header) != length or len(places) != 1:
        raise ValueError(UNSEALED if len(start) == _LENGTH else "it is cut short")
    first, last = places[0].span(1)
    total = hashlib.sha256(start + header[:first] + _BLANK + header[last:])
    while chunk := stream.read(_CHUNK):
        total.update(chunk)
    return _LENGTH + first, header[first:last], total.hexdigest().encode()
