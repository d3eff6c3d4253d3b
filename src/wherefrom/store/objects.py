"""Results as files: frozen dataclasses of this package, their tensors as they are and the rest as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wherefrom.errors import StoreError, UnsupportedError
from wherefrom.store.tensors import RECOMPUTE, read_tensors, write_tensors

_KIND = "wherefrom-object-1"
_PACKAGE = __name__.partition(".")[0]


def write_object(path: str | Path, value: Any) -> None:
    """Write a value made of dataclasses of this package, sequences, mappings, tensors, arrays, numbers and
    words, all or nothing.

    Raises:
        UnsupportedError: there is something else in it.
        StoreError: the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    words = json.dumps(_encoded(value, tensors), allow_nan=False)
    write_tensors(path, tensors, {"kind": _KIND, "value": words})


def read_object(path: str | Path) -> Any:
    """What `write_object` wrote. Nothing in the file can run code: it names dataclasses of this package and
    their fields.

    Raises:
        StoreError: the file cannot be read, was damaged or edited, or is of another version.
    """
    tensors, words = read_tensors(path)
    if words.get("kind") != _KIND:
        raise StoreError(f"{path} cannot be used: it holds no result of this version. {RECOMPUTE}")
    try:
        return _decoded(json.loads(words["value"]), tensors)
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path} cannot be used: it is of another version: {error}. {RECOMPUTE}") from error


def _encoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A list stays a list; everything that JSON does not know is a mapping with one key, its kind."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        name = str(len(tensors))
        tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        return {"tensor" if isinstance(value, Tensor) else "array": name}
    if isinstance(value, (list, tuple)):
        items = [_encoded(item, tensors) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping):
        return {"dict": [[_encoded(key, tensors), _encoded(item, tensors)] for key, item in value.items()]}
    kind = type(value)
    if is_dataclass(value) and kind.__module__.startswith(f"{_PACKAGE}."):
        made = {one.name: _encoded(getattr(value, one.name), tensors) for one in fields(value) if one.init}
        return {"object": [kind.__module__, kind.__qualname__, made]}
    raise UnsupportedError(f"a {kind.__name__} cannot be kept in a file")


def _decoded(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "float":
        return float(held)
    if kind in ("tensor", "array"):
        return tensors[held] if kind == "tensor" else tensors[held].numpy()
    if kind == "tuple":
        return tuple(_decoded(item, tensors) for item in held)
    if kind == "dict":
        return {_decoded(key, tensors): _decoded(item, tensors) for key, item in held}
    if kind != "object":
        raise ValueError(f"{kind!r} is not known")
    module, name, made = held
    if not module.startswith(f"{_PACKAGE}."):
        raise ValueError(f"{module} is no part of {_PACKAGE}")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and is_dataclass(found)):
        raise ValueError(f"{name} is no dataclass")
    return found(**{field: _decoded(item, tensors) for field, item in made.items()})
