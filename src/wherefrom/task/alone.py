"""One computation at a time, in the arithmetic that its errors are stated for."""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from wherefrom.errors import InputError

# Of the process, not of a model: attention kernels are chosen, and hooks are set, for all threads at once.
_LOCK = threading.RLock()
_inside = False
_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu")


@contextmanager
def alone() -> Iterator[bool]:
    """Inside the block no other thread is in such a block, and neither `torch.autocast` nor
    `torch.inference_mode` of the caller is in force. Gives whether it is the outermost one.

    Autocast would round every product to half precision, where errors are stated for the computation's
    dtype; nothing can be differentiated in inference mode.
    """
    global _inside
    with _LOCK, ExitStack() as stack:
        outermost, _inside = not _inside, True
        stack.callback(_set_inside, not outermost)
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in autocast_devices():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield outermost


def _set_inside(value: bool) -> None:
    global _inside
    _inside = value


def autocast_devices() -> list[str]:
    """The kinds of device for which `torch.autocast` is on."""
    return [device for device in _AUTOCAST_DEVICES if _autocast_is_on(device)]


def refuse_autocast() -> None:
    """For what is not called inside `alone()`.

    Raises:
        InputError: `torch.autocast` is on.
    """
    if autocast_devices():
        raise InputError(
            "torch.autocast is on, which rounds to half precision what errors are stated for. Leave it "
            "before using Wherefrom (methods of Influence do so themselves)."
        )


def _autocast_is_on(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except RuntimeError:  # this build of torch does not know the device
        return False


class OneAtATime:
    """Public methods of classes that inherit from it run inside `alone()`, unless `_ready` refuses; objects
    may be shared by threads."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in list(vars(cls).items()):
            if isinstance(method, types.FunctionType) and (name == "__init__" or not name.startswith("_")):
                setattr(cls, name, _wrapped(method, checked=name != "__init__"))

    def _ready(self) -> None:
        """Refuse to be used as things are; asked before each method that is called from outside.

        Raises:
            InputError: what is missing or has changed.
        """


def _wrapped(method: Callable[..., Any], *, checked: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with alone() as outermost:
            if outermost and checked:
                self._ready()
            return method(self, *args, **kwargs)

    return call
