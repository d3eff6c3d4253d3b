"""A short number for what an example holds, to see that it is the same when it is read again."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_QUICK = (torch.float32, torch.float64, torch.int64, torch.uint8)
_DEPTH = 8  # of values within values


def content_digest(value: Any, start: int = 0, depth: int = 0) -> int:
    """CRC-32 of tensors, arrays, pictures, numbers and texts, alone or in lists, dicts and objects with
    attributes; what is none of these counts by its type."""
    if isinstance(value, Tensor):
        return zlib.crc32(_bytes(value), _shape(value, start))
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return zlib.crc32(np.ascontiguousarray(value).data, _shape(value, start))
    if isinstance(value, _PLAIN):
        return zlib.crc32(repr(value).encode(), start)
    if depth > _DEPTH:
        return start
    if isinstance(value, Mapping):
        for key, content in value.items():
            start = content_digest(content, content_digest(key, start, depth + 1), depth + 1)
        return start
    if isinstance(value, (list, tuple)):
        for content in value:
            start = content_digest(content, start, depth + 1)
        return zlib.crc32(str(len(value)).encode(), start)
    if callable(getattr(value, "tobytes", None)):  # pictures of PIL
        return zlib.crc32(value.tobytes(), start)
    start = zlib.crc32(type(value).__qualname__.encode(), start)
    return content_digest(dict(getattr(value, "__dict__", {})), start, depth + 1)


def content_size(value: Any) -> int:
    """How many numbers the tensors, arrays and lists of an example hold: where examples have a length, more
    in a longer one."""
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, np.ndarray):
        return int(value.size)
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(content_size(content) for content in value.values())
    if isinstance(value, (list, tuple)):
        return sum(content_size(content) for content in value)
    return 1


def _shape(value: Any, start: int) -> int:
    if isinstance(value, Tensor) and value.is_nested:
        return start
    for size in value.shape:
        start = (start * 31 + size + 1) & 0xFFFFFFFF
    return start


def _bytes(tensor: Tensor) -> Any:
    quick = type(tensor) is Tensor and tensor.dtype in _QUICK and tensor.device.type == "cpu"
    if quick and not tensor.requires_grad and tensor.layout == torch.strided and tensor.is_contiguous():
        return tensor.numpy().data
    plain = tensor.detach()
    if plain.layout != torch.strided or plain.is_nested or plain.is_meta or plain.is_quantized:
        return repr((plain.layout, tuple(plain.shape) if not plain.is_nested else ())).encode()
    plain = plain.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().data if plain.numel() else b""
