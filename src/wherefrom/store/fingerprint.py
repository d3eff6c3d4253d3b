"""A hash of what a function does, as far as it can be seen: kept results are not reused for another."""

from __future__ import annotations

import argparse
import enum
import functools
import hashlib
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from wherefrom.store.installed import is_installed

_DEPTH = 30  # of values within values
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, PurePath, torch.dtype, torch.device)
_SETTINGS_HOLDERS = (types.SimpleNamespace, argparse.Namespace, Dataset)


def fingerprint(subject: Any) -> str:
    """SHA-256 of a function or callable object.

    Seen: compiled code; contents of closure cells; default arguments; arguments of `functools.partial`; the
    functions, classes and values of the user's own modules that the code names, and so on from there. An
    object of the user's own counts by its class and its `settings()`, or, without these, by its attributes;
    tensors, arrays, modules and data sets by their content.

    Not seen: the code of installed packages, files that are read, environment variables, attributes looked up
    by a computed name, and the state of objects from installed packages other than those above.
    """
    return _Description().of(subject)


class _Description:
    """One walk over a value; an object met again counts by the position at which it was met first."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # ids stay taken as long as the walk lasts

    def of(self, value: Any, depth: int = 0) -> str:
        if isinstance(value, _PLAIN):
            return _sha(type(value).__name__, repr(value))
        if depth > _DEPTH:
            return _sha("deep", _name(type(value)))
        if isinstance(value, (tuple, frozenset)):  # whether equal constants are one object is Python's choice
            return _sha(*self._parts(value, depth + 1))
        if id(value) in self._met:
            return _sha("met", str(self._met[id(value)]))
        self._met[id(value)] = len(self._met)
        self._kept.append(value)
        return _sha(*self._parts(value, depth + 1))

    def _parts(self, value: Any, depth: int) -> Iterator[str | bytes]:
        yield type(value).__name__
        if isinstance(value, Tensor):
            yield _tensor_bytes(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            yield from self._array(np.asarray(value), depth)
        elif isinstance(value, enum.Enum):
            yield f"{_name(type(value))}.{value.name}"
        elif isinstance(value, Mapping):
            # At once: describing what it holds may import or keep something, which changes it.
            for key, content in list(value.items()):
                yield self.of(key, depth)
                yield self.of(content, depth)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield self.of(item, depth)
        elif isinstance(value, (set, frozenset)):
            # Each alone: the order of a set changes from process to process.
            yield from sorted(_Description().of(item, depth) for item in value)
        elif isinstance(value, functools.partial):
            for part in (value.func, value.args, value.keywords):
                yield self.of(part, depth)
        elif isinstance(value, types.MethodType):
            yield self.of(value.__self__, depth)
            yield self.of(value.__func__, depth)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, depth)
        elif isinstance(value, types.CodeType):
            yield from self._code(value, depth)
        elif isinstance(value, types.ModuleType):
            yield value.__name__
        elif isinstance(value, type):
            yield from self._class(value, depth)
        elif isinstance(value, (staticmethod, classmethod)):
            yield self.of(value.__func__, depth)
        elif isinstance(value, property):
            yield self.of((value.fget, value.fset), depth)
        elif hasattr(value, "__wrapped__"):  # functools.lru_cache
            yield self.of(value.__wrapped__, depth)
        elif isinstance(value, (types.BuiltinFunctionType, types.MethodDescriptorType)):
            yield value.__qualname__
        else:
            yield from self._object(value, depth)

    def _array(self, array: np.ndarray, depth: int) -> Iterator[str | bytes]:
        yield f"{array.shape}{array.dtype}"
        yield self.of(array.tolist(), depth) if array.dtype.hasobject else array.tobytes()

    def _function(self, function: types.FunctionType, depth: int) -> Iterator[str | bytes]:
        yield f"{function.__module__}.{function.__qualname__}"
        yield self.of(function.__defaults__, depth)
        yield self.of(function.__kwdefaults__, depth)
        for cell in function.__closure__ or ():
            try:
                content = cell.cell_contents
            except ValueError:  # a name that is not assigned yet
                yield "empty"
            else:
                yield self.of(content, depth)
        if is_installed(function.__module__):
            return
        yield self.of(function.__code__, depth)
        names = sorted(_names(function.__code__))
        for name in names:
            if name not in function.__globals__:
                continue
            found = function.__globals__[name]
            yield name
            yield self.of(found, depth)
            if isinstance(found, types.ModuleType) and not is_installed(found.__name__):
                for attribute in names:
                    if attribute in vars(found):
                        yield attribute
                        yield self.of(vars(found)[attribute], depth)

    def _code(self, code: types.CodeType, depth: int) -> Iterator[str | bytes]:
        yield code.co_code
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_argcount, code.co_flags))
        for constant in code.co_consts:
            yield self.of(constant, depth)

    def _class(self, made: type, depth: int) -> Iterator[str | bytes]:
        for base in made.__mro__:
            yield _name(base)
            if is_installed(base.__module__):
                continue
            for name, content in sorted(vars(base).items()):
                if not name.startswith("__") or isinstance(content, (types.FunctionType, classmethod)):
                    yield name
                    yield self.of(content, depth)

    def _object(self, value: Any, depth: int) -> Iterator[str | bytes]:
        made = type(value)
        yield self.of(made, depth)
        ours = made.__module__.split(".")[0] == "wherefrom"
        own = not is_installed(made.__module__)
        if isinstance(value, nn.Module):
            for name, tensor in [*value.named_parameters(), *value.named_buffers()]:
                yield name
                yield _tensor_bytes(tensor)
            for name, module in value.named_modules():
                yield name
                yield self.of(type(module), depth)
                # Hooks and registries of torch begin with an underscore.
                public = {key: item for key, item in vars(module).items() if not key.startswith("_")}
                yield self.of(public, depth)
        elif own and callable(getattr(value, "settings", None)):
            yield self.of(value.settings(), depth)
        elif own or ours or isinstance(value, _SETTINGS_HOLDERS):
            yield self.of(dict(getattr(value, "__dict__", {})), depth)
            for base in made.__mro__:
                slots = vars(base).get("__slots__", ())
                for slot in (slots,) if isinstance(slots, str) else slots:
                    if not slot.startswith("__") and hasattr(value, slot):
                        yield self.of(getattr(value, slot), depth)
        elif callable(getattr(value, "get_params", None)):  # scikit-learn's estimators
            yield self.of(value.get_params(), depth)


def _names(code: types.CodeType) -> set[str]:
    """Global and attribute names in a function's code and in the functions inside it."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*inner)


def _name(value: type | Callable[..., Any]) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _tensor_bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().cpu()
    plain = plain.to_dense() if plain.layout != torch.strided else plain
    content = plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tuple(tensor.shape)}{tensor.dtype}".encode() + content


def _sha(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
