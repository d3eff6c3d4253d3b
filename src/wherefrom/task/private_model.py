"""A model's modules copied, so that the user's own stay as they are whatever is swapped, hooked or run."""

from __future__ import annotations

import functools
import types
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = (dict, OrderedDict, list, tuple, set)


def private_copy(model: nn.Module, own: Mapping[int, Tensor]) -> nn.Module | None:
    """The same modules anew, holding other tensors; `None` where modules cannot be copied (TorchScript).

    Attributes are shared, except what may refer to the model itself: modules, tensors, and lists, dicts,
    bound methods and partial functions with such inside. A function that closes over one of the model's
    modules still means the user's; whether that matters is for the caller to try.

    Embeddings with `sparse=True` become dense ones: the same function, with gradients that can be
    differentiated again.

    Args:
        model: that is copied.
        own: the tensor to hold for each parameter and buffer, by the `id` of the given one.
    """
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return None
    return _Copier(own).module(model)


class _Copier:
    def __init__(self, own: Mapping[int, Tensor]):
        self._own = own
        self._made: dict[int, Any] = {}

    def module(self, module: nn.Module) -> nn.Module:
        if id(module) not in self._made:
            made = object.__new__(type(module))
            self._made[id(module)] = made  # first: modules may refer to one another in circles
            for name, value in vars(module).items():
                vars(made)[name] = self._value(value)
            if isinstance(made, (nn.Embedding, nn.EmbeddingBag)):
                made.sparse = False
        return self._made[id(module)]

    def _value(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.module(value)
        if isinstance(value, Tensor):
            return self._tensor(value)
        if type(value) in _CONTAINERS:
            return self._container(value)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.module(value.__self__))
        if isinstance(value, functools.partial):
            args, keywords = self._value(value.args), self._value(value.keywords)
            return functools.partial(self._value(value.func), *args, **keywords)
        return value

    def _tensor(self, value: Tensor) -> Tensor:
        if id(value) not in self._made:
            kept = self._own.get(id(value))
            self._made[id(value)] = value.detach().clone() if kept is None else kept
        return self._made[id(value)]

    def _container(self, value: Any) -> Any:
        if id(value) in self._made:
            return self._made[id(value)]
        made: Any
        if isinstance(value, dict):
            made = self._made[id(value)] = type(value)()
            made.update((key, self._value(content)) for key, content in value.items())
        elif isinstance(value, list):
            made = self._made[id(value)] = []
            made.extend(self._value(content) for content in value)
        else:
            made = self._made[id(value)] = type(value)(self._value(content) for content in value)
        return made
