"""Is the gradient of a penalty the slope of the penalty? Asked once for every model, loss and shape, not at
every step of a training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from wherefrom.errors import UnsupportedError, WherefromError
from wherefrom.gradients import own_functions, weight_normalised
from wherefrom.linalg.finite_differences import SHORT_STEPS, STEPS, Discrepancy, discrepancy
from wherefrom.memory import is_allocation_failure
from wherefrom.task import differentiable_attention

Values = dict[str, Tensor]
# (parameters by name, inputs, targets) -> scalars whose gradients are penalised
Scalars = Callable[[Values, Any, Any], Sequence[Tensor]]

_CHECKED: WeakKeyDictionary[nn.Module, set[Hashable]] = WeakKeyDictionary()
# Of one model: sequences may come in any number of lengths.
_MOST = 8


def check_penalty(
    model: nn.Module, kind: str, loss: Any, scalars: Scalars, x: Any, y: Any, *, of_inputs: bool
) -> None:
    """Refuse a penalty `Σ ‖∇ s‖²` whose gradients are not those of the model, or whose own gradient in the
    parameters is not its slope: some operations and users' own functions have a wrong second derivative.

    In float64 where the model can be computed in it, on this batch; random layers draw the same every time.

    Args:
        model, kind, loss, x, y: what was checked before is not checked again.
        scalars: the `s`.
        of_inputs: whether they are differentiated in `x`, a tensor, or in the parameters.

    Raises:
        UnsupportedError: with the likely cause.
    """
    key = (kind, _name(loss), model.training, *(_shape(leaf) for leaf in tree_flatten((x, y))[0]))
    seen = _CHECKED.setdefault(model, set())
    if key in seen or len(seen) >= _MOST:
        return
    named = {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}
    for convert, steps in ((_double, STEPS), (_same, SHORT_STEPS)):
        values, inputs, targets = tree_map(convert, (named, x, y))
        try:
            found = _compare(model, scalars, values, inputs, targets, steps, of_inputs)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            # Refusals of the computation itself are raised by it, in its own words, when it is done.
            if is_allocation_failure(error) or (convert is _same and not isinstance(error, WherefromError)):
                return
            if isinstance(error, WherefromError):
                return
            continue
        if found is not None:
            raise found
        seen.add(key)
        return


def _compare(
    model: nn.Module,
    scalars: Scalars,
    values: Values,
    x: Any,
    y: Any,
    steps: Sequence[float],
    of_inputs: bool,
) -> UnsupportedError | None:
    first = values if not of_inputs else {"x": x.detach()}

    def at(step: float, along: Values, base: Values) -> Values:
        moved = {name: value + step * along[name] for name, value in base.items()}
        return {name: value.detach().requires_grad_() for name, value in moved.items()}

    def total(leaves: Values) -> Tensor:
        with _repeatable(values):
            made = scalars(values, leaves["x"], y) if of_inputs else scalars(leaves, x, y)
        return torch.stack(list(made)).sum()

    along = _direction(first)
    leaves = at(0.0, along, first)
    forward = total(leaves)
    slopes = torch.autograd.grad(forward, list(leaves.values()), retain_graph=True, materialize_grads=True)
    claimed = sum((slope * along[name]).sum() for name, slope in zip(leaves, slopes))
    assert isinstance(claimed, Tensor)
    found = discrepancy(lambda h: total(at(h, along, first)).detach()[None], claimed[None], steps=steps)
    if found is not None:
        return _refusal("gradient that is penalised is not the slope of the loss", found, forward, model)

    def penalty(leaves: Values) -> Tensor:
        inputs = x.detach().requires_grad_() if of_inputs else x
        with _repeatable(values):
            made = scalars(leaves, inputs, y)
            parts: list[Tensor] = []
            for scalar in made:
                wanted = [inputs] if of_inputs else list(leaves.values())
                parts += torch.autograd.grad(scalar, wanted, create_graph=True, materialize_grads=True)
        return torch.stack([part.square().sum() for part in parts]).sum()

    along = _direction(values)
    leaves = at(0.0, along, values)
    made = penalty(leaves)
    if not made.requires_grad:
        return None
    slopes = torch.autograd.grad(made, list(leaves.values()), materialize_grads=True)
    claimed = sum((slope * along[name]).sum() for name, slope in zip(leaves, slopes))
    assert isinstance(claimed, Tensor)
    found = discrepancy(lambda h: penalty(at(h, along, values)).detach()[None], claimed[None], steps=steps)
    if found is None:
        return None
    refusal = _refusal("gradient of the penalty is not its slope", found, forward, model, second=True)
    # In float32 the kinks of a ReLU look like curvature: then a known suspect is needed too.
    known = weight_normalised(model) is not None or bool(own_functions(forward))
    return refusal if steps is STEPS or known else None


def _refusal(
    what: str, found: Discrepancy, graph: Tensor, model: nn.Module, *, second: bool = False
) -> UnsupportedError:
    layer, own = weight_normalised(model), own_functions(graph)
    if layer is not None and second:
        cause = (
            f"Module {layer!r} is weight normalisation, whose second derivative in torch is wrong: fold the "
            "norm into the weight (remove_parametrizations) to train with a penalty."
        )
    elif own:
        cause = (
            f"Is the backward of autograd.Function {', '.join(map(repr, own))} differentiable and right? "
            "Save inputs by save_for_backward and compute from them in torch operations."
        )
    else:
        cause = (
            "A detach(), a straight-through estimator, a hook that changes gradients, or the backward of an "
            "own autograd.Function? Remove it, or train without the penalty."
        )
    return UnsupportedError(
        f"the {what}: off by {found.relative:.2g} of its size (finite differences). {cause}"
    )


@contextmanager
def _repeatable(values: Values) -> Iterator[None]:
    """Random layers draw the same; the user's own stream of random numbers is not touched."""
    devices = sorted({value.device.index for value in values.values() if value.is_cuda})
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), differentiable_attention():
        torch.manual_seed(0)
        yield


def _direction(values: Mapping[str, Tensor]) -> Values:
    generator = torch.Generator().manual_seed(0)
    return {
        name: (float(value.square().mean().sqrt()) or 1.0)
        * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for name, value in values.items()
    }


def _double(leaf: Any) -> Any:
    return leaf.detach().double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _same(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _shape(leaf: Any) -> Hashable:
    return f"{tuple(leaf.shape)} {leaf.dtype}" if isinstance(leaf, Tensor) else type(leaf).__name__


def _name(loss: Any) -> Hashable:
    """What stays the same where a loss is made anew at every step."""
    if isinstance(loss, str):
        return loss
    while isinstance(loss, functools.partial):
        loss = loss.func
    code: Hashable = getattr(loss, "__code__", None)
    return type(loss).__qualname__ if code is None else code
