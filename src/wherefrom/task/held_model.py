"""The model in the state it was given: its tensors held apart from the user's, its modules copied where that
is the same function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wherefrom.errors import WherefromError
from wherefrom.task.batch import Forward
from wherefrom.task.private_model import private_copy
from wherefrom.task.unchanged import Unchanged


@dataclass
class HeldTensors:
    """A model's tensors as they were.

    Attributes:
        constants: frozen parameters and buffers by name, in the dtype of the computation.
        own: what a copy of the model holds for each parameter and buffer, by the `id` of the given one.
        borrowed: names and tensors too large to be copied, whose memory is the user's.
    """

    constants: dict[str, Tensor] = field(default_factory=dict)
    own: dict[int, Tensor] = field(default_factory=dict)
    borrowed: list[tuple[str, Tensor]] = field(default_factory=list)


def hold_tensors(
    model: nn.Module, studied: Mapping[str, Tensor], dtype: torch.dtype, copy_bytes: int
) -> HeldTensors:
    """Copies of a model's tensors, as far as `copy_bytes` go; `studied` are copies already."""
    held = HeldTensors()
    left = copy_bytes
    # Buffers first: they are small, and what a training step changes.
    for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
        kept = tensor.detach()
        if name in studied:
            kept = studied[name] if studied[name].dtype == tensor.dtype else kept.clone()
        elif (size := tensor.numel() * tensor.element_size()) <= left or tensor.is_inference():
            left -= size
            kept = kept.clone()
        else:
            held.borrowed.append((f"{name!r} of the model", tensor))
        if name not in studied:
            held.constants[name] = kept.to(dtype) if kept.is_floating_point() else kept
        if isinstance(tensor, nn.Parameter):
            kept = nn.Parameter(kept, requires_grad=tensor.requires_grad)
        held.own[id(tensor)] = kept
    return held


class Forwarded(nn.Module):
    """A user's `forward(model, batch)` as a module, so that `functional_call` can swap the parameters beneath
    it."""

    def __init__(self, model: nn.Module, forward: Forward):
        super().__init__()
        self.model = model
        self.call = forward

    def forward(self, batch: Any) -> Any:
        return self.call(self.model, batch)


def private_or_given(
    model: nn.Module,
    forward: Forward,
    held: HeldTensors,
    outputs: Callable[[Forwarded], Tensor],
    borrowed: Unchanged,
) -> Forwarded:
    """A copy of the model if it gives the same outputs, else the model itself, which is then watched.

    `outputs` must be at other parameters than the model's own: a module that is reached around the copy (by
    a closure over it) would otherwise not show.
    """
    given = Forwarded(model, forward)
    made = private_copy(model, held.own)
    if made is not None and _same(outputs, Forwarded(made, forward), given):
        return Forwarded(made, forward)
    borrowed.watch("the model", lambda: _state(model))
    return given


def _same(outputs: Callable[[Forwarded], Tensor], private: Forwarded, given: Forwarded) -> bool:
    try:
        with torch.no_grad():
            a, b = outputs(given), outputs(private)
    except WherefromError:
        return False
    except Exception:  # of the user's forward pass, which is asked again, and named, where models are checked
        return False
    if a.shape != b.shape or not a.is_floating_point():
        return False
    size = float(a.abs().nan_to_num().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6 * size, equal_nan=True)


def _state(model: nn.Module) -> tuple[Any, ...]:
    """Versions of the tensors, modes and hooks."""
    tensors = [*model.parameters(), *model.buffers()]
    versions = tuple((id(one), one._version, one.data_ptr()) for one in tensors if not one.is_inference())
    modules = tuple(
        (module.training, len(module._forward_hooks), len(module._forward_pre_hooks))
        for module in model.modules()
    )
    return versions, modules
