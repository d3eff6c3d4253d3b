"""The run-time checks of shapes and types, made cheap: what was found right is not checked again.

pytest's option `--jaxtyping-packages` (in pyproject.toml) writes `@jaxtyping.jaxtyped(...)` above every
function and class of the package. jaxtyping's own decorator compiles two functions for each of them when it
is imported and compares every argument of every call: more than half of the time of the whole suite. The one
here looks at a function when it is first called, and compares a call only when the kinds of its arguments or
of its answer were not met before: types, dtypes and shapes, also of what a tuple, a list or a dict holds.
A hint sees nothing else of a tensor, so that nothing is lost.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from types import CodeType
from typing import Any, NoReturn, get_type_hints

import jaxtyping
import numpy as np
import torch
from beartype.door import die_if_unbearable

_DEPTH = 4  # no hint looks deeper into containers
_scope = jaxtyping.jaxtyped  # jaxtyping's own, whatever is installed
_HINTS: dict[CodeType, _Hints] = {}


def install() -> None:
    """Put these checks in the place of jaxtyping's; to be called before the package is imported."""
    jaxtyping.jaxtyped = checked


def checked(fn: Any = None, *, typechecker: Any = None) -> Any:
    """`fn` (a function, or a dataclass for its `__init__`) with its arguments and its answer checked."""
    if fn is None:
        return checked
    if inspect.isclass(fn):
        if dataclasses.is_dataclass(fn) and not hasattr(fn.__init__, "__wrapped__"):
            fn.__init__ = _checked(fn.__init__, _Hints())
        return fn
    return _checked(fn, _HINTS.setdefault(fn.__code__, _Hints())) if fn.__annotations__ else fn


def _checked(fn: Any, hints: _Hints) -> Any:
    # No other cell than these two: the fingerprints of `store` look into the cells of functions.
    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return fn(*args, **kwargs)
        key = (len(args), *map(kind, args), *kwargs, *map(kind, kwargs.values()))
        answers = hints.seen.get(key)
        if answers is None:
            hints.compare(fn, args, kwargs)
        answer = fn(*args, **kwargs)
        found = kind(answer)
        if answers is None or found not in answers:
            hints.compare(fn, args, kwargs, {"return": answer})
            hints.seen.setdefault(key, set()).add(found)
        return answer

    return call


class _Hints:
    """What one function of the source expects (all its closures together), and the kinds that passed."""

    __module__ = jaxtyping.__name__  # as of an installed package: no part of a fingerprint

    def __init__(self) -> None:
        self.seen: dict[Any, set[Any]] = {}
        self._hints: dict[str, Any] = {}
        self._signature: inspect.Signature | None = None

    def compare(self, fn: Any, args: Any, kwargs: Any, answer: dict[str, Any] | None = None) -> None:
        """Raise `TypeCheckError` where an argument (or the answer) is not what its hint says.

        All are compared in one scope: a size's name means one number.
        """
        if self._signature is None:
            self._signature = inspect.signature(fn)
            self._hints = {name: _hint(text, fn) for name, text in fn.__annotations__.items()}
        bound = self._signature.bind(*args, **kwargs)
        with _scope("context"):
            for name, value in (bound.arguments | (answer or {})).items():
                for one in self._values(name, value):
                    _compare_one(fn, name, one, self._hints.get(name, Any))

    def _values(self, name: str, value: Any) -> Any:
        """The hint of `*args` and of `**kwargs` is one for each of them."""
        of = None if name == "return" else self._signature.parameters[name].kind  # type: ignore[union-attr]
        if of is inspect.Parameter.VAR_KEYWORD:
            return value.values()
        return value if of is inspect.Parameter.VAR_POSITIONAL else (value,)


def _compare_one(fn: Any, name: str, value: Any, hint: Any) -> None:
    if hint is Any or hint is NoReturn:
        return
    try:
        die_if_unbearable(value, hint)
    except Exception as error:
        what = "the answer" if name == "return" else f"the argument {name!r}"
        raise jaxtyping.TypeCheckError(f"{fn.__module__}.{fn.__qualname__}: {what}: {error}") from None


def _hint(text: Any, fn: Any) -> Any:
    """The hint of an annotation; `Any` where it names what exists for the static checker alone."""

    def one() -> None: ...

    one.__annotations__ = {"it": text}
    try:
        return get_type_hints(one, fn.__globals__, include_extras=True)["it"]
    except Exception:
        return Any


def kind(value: Any, depth: int = _DEPTH) -> Any:
    """What a hint sees of a value: its type, dtype and shape, and the kinds of what it holds."""
    of = type(value)
    look = _LOOKS.get(of)
    if look is None:
        look = _LOOKS[of] = next((look for base, look in _KINDS if issubclass(of, base)), _of_type)
    return look(value, depth)


def _of_array(value: Any, depth: int) -> Any:
    try:
        return type(value), value.dtype, value.shape
    except RuntimeError:  # a nested tensor has no shape
        return type(value), value.dtype


def _of_items(value: Any, depth: int) -> Any:
    return type(value), *[kind(item, depth - 1) for item in value if depth]


def _of_dict(value: Any, depth: int) -> Any:
    return type(value), _of_items([*value.keys(), *value.values()], depth)


def _of_value(value: Any, depth: int) -> Any:
    return value  # `Literal` and `type[...]` look at it


def _of_type(value: Any, depth: int) -> Any:
    return type(value)


_KINDS = (
    (torch.Tensor | np.ndarray, _of_array),
    (tuple | list, _of_items),
    (dict, _of_dict),
    (str | type, _of_value),
)
_LOOKS: dict[type, Any] = {}
