"""A forward pass that computes with fewer digits than the errors are stated for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from wherefrom.errors import InputError
from wherefrom.task.alone import autocast_devices
from wherefrom.task.objective import Objective


def check_precision(objective: Objective) -> None:
    """The outputs and losses are computed in the dtype of the computation throughout, as far as they depend
    on the studied parameters.

    Raises:
        InputError: `torch.autocast` inside the model or loss, or a cast to a lower precision.
    """
    batch = objective.examples.batch([0])
    leaves = {name: value.detach().requires_grad_() for name, value in objective.parameters.values.items()}
    watch = _Lowest(objective.dtype)
    try:
        with torch.enable_grad(), watch:
            objective.losses(leaves, batch)
    except _Found:
        pass
    except Exception:
        return  # of the user's code: asked again, and named, where examples are checked
    if watch.found is None:
        return
    dtype = str(objective.dtype).removeprefix("torch.")
    found = str(watch.found).removeprefix("torch.")
    if watch.autocast:
        raise InputError(
            f"the forward pass turns on torch.autocast and computes in {found}: values are rounded, and the "
            f"errors stated in {dtype} would be far too small. Remove autocast from forward (training may "
            "use it around the call), or pass forward=lambda model, batch: … that calls the layers without "
            "it."
        )
    raise InputError(
        f"the forward pass or the loss casts what depends on the studied parameters to {found} "
        f"({watch.where}) in a computation in {dtype}: the errors stated would be far too small. "
        + (
            "Pass dtype=torch.float32, in which nothing is cast down, or remove the cast."
            if watch.found == torch.float32
            else f"Remove the cast: half precision models are computed in {dtype} here."
        )
    )


class _Found(Exception):
    """Nothing more is to be learnt from the forward pass."""


class _Lowest(TorchFunctionMode):
    """Looks for the first differentiable number of lower precision than a dtype."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._size = dtype.itemsize
        self.found: torch.dtype | None = None
        self.autocast = False
        self.where = ""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for leaf in tree_flatten((made, args))[0]:
            if self._is_low(leaf):
                self.found, self.autocast = leaf.dtype, bool(autocast_devices())
                self.where = getattr(func, "__name__", str(func))
                raise _Found
        return made

    def _is_low(self, leaf: Any) -> bool:
        return (
            isinstance(leaf, Tensor)
            and leaf.is_floating_point()
            and leaf.dtype.itemsize < self._size
            and leaf.requires_grad
        )
