"""Gradients as penalties: scalars with a graph, to be added to a training loss and differentiated again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from wherefrom.arguments import whole
from wherefrom.errors import BatchDependenceError, InputError, NonFiniteError, UnsupportedError
from wherefrom.losses import resolve_loss
from wherefrom.studies.geometry.penalty_check import Values, check_penalty
from wherefrom.task import differentiable_attention
from wherefrom.task.batch import output_tensor
from wherefrom.task.objective import _places

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
# Nodes that torch puts in place of a second derivative it does not have.
_NO_SECOND_DERIVATIVE = ("NotImplemented", "Error", "DelayedError")


def input_gradient_penalty(model: nn.Module, loss: Any, x: Tensor, y: Any) -> Float[Tensor, ""]:
    """`(1/b) Σ ‖∇_{x_i} ℓ(f(x_i), y_i)‖²`: the mean squared gradient of each example's own loss in its input.

    Add it to the training loss, `(L + μ · penalty).backward()`. It costs one forward and one backward pass,
    and makes the backward pass of the training loss about twice as long. Buffers (running statistics) are not
    written to, though the forward pass is a second one.

    Args:
        model: in the mode it is trained in; dropout draws a mask of its own.
        loss: a name, a `wherefrom.Loss`, a torch loss or a function `(outputs, targets) -> (b,)`.
        x: floating-point inputs `(b, ...)`, the examples first. One that requires a gradient keeps its graph.
        y: targets.

    Raises:
        InputError: no parameter requires a gradient, gradients are switched off, or integer inputs.
        NonFiniteError: NaN or infinity in the inputs or in the penalty.
        BatchDependenceError: batch normalisation in training mode, whose examples have no loss of their own.
        UnsupportedError: an operation without a second derivative.

    Source: Drucker & Le Cun 1992, "Improving generalization performance using double backpropagation".
    """
    _check(model, x, inputs=True)
    per_example = resolve_loss(loss)

    def total(values: Values, x: Tensor, y: Any) -> list[Tensor]:
        outputs = _outputs(model, x, values)
        per_example.validate(outputs, y)
        return [per_example(outputs, y).sum()]

    x = x if x.requires_grad else x.detach().requires_grad_()
    with differentiable_attention():
        (gradient,) = _gradients(total({}, x, y)[0], [x])
    penalty = _finite(gradient.square().sum() / len(x), "input_gradient_penalty")
    check_penalty(model, "input", loss, total, x, y, of_inputs=True)
    return penalty


def parameter_gradient_penalty(model: nn.Module, loss: Any, x: Any, y: Any) -> Float[Tensor, ""]:
    """`‖∇_θ L‖²` of the batch's mean loss `L`, over all parameters that require a gradient.

    With the weight `learning_rate / 4` it is what gradient descent adds of its own accord (see
    `modified_loss`). Cost and buffers as for `input_gradient_penalty`.

    Args:
        model, loss, y: as for `input_gradient_penalty`; batch normalisation is allowed in either mode.
        x: inputs of the model: a tensor, a tuple `model(*x)` or a dict `model(**x)`, integer ones included.

    Raises:
        InputError, NonFiniteError, UnsupportedError: as for `input_gradient_penalty`.

    Source: Barrett & Dherin 2021, "Implicit gradient regularization", §7.
    """
    return _finite(_loss_and_squared_gradient(model, loss, x, y)[1], "parameter_gradient_penalty")


def jacobian_penalty(
    model: nn.Module,
    x: Tensor,
    probes: int | None = 1,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """`(1/b) Σ ‖∂f(x_i)/∂x_i‖_F²` over all outputs: the batch's geometric complexity, no label needed.

    Args:
        model, x: as for `input_gradient_penalty`.
        probes: how many random output directions, uniform on the unit sphere and drawn afresh for every
            example, stand for all: `(c / probes) Σ ‖vᵀ J‖²`, whose mean is the exact value. `None` takes
            every output in turn: exact, at `c` backward passes.
        generator: of the directions; torch's own otherwise, which then advances.

    Raises:
        InputError: `probes` below 1, and as for `input_gradient_penalty`.
        NonFiniteError, BatchDependenceError, UnsupportedError: as there.

    Source: Hoffman, Roberts & Yaida 2019, "Robust learning with Jacobian regularization", eq. 8 (their
    penalty is half of this).
    """
    if probes is not None:
        whole("probes", probes, 1, expected="a whole number of at least 1, or None for the exact value")
    _check(model, x, inputs=True)
    x = x if x.requires_grad else x.detach().requires_grad_()
    with differentiable_attention():
        along, c = _along(_outputs(model, x, {}), len(x), probes, generator)
        total = along[0].new_zeros(())
        for scalar in along:
            (gradient,) = _gradients(scalar, [x])
            total = total + gradient.square().sum()
    scale = 1.0 if probes is None else c / probes
    penalty = _finite(scale * total / len(x), "jacobian_penalty")

    def one(values: Values, x: Tensor, _: Any) -> list[Tensor]:
        return _along(_outputs(model, x, values), len(x), 1, None)[0]

    check_penalty(model, "jacobian", None, one, x, None, of_inputs=True)
    return penalty


def _along(
    outputs: Tensor, examples: int, probes: int | None, generator: torch.Generator | None
) -> tuple[list[Tensor], int]:
    """The outputs along each direction, summed over the examples; and how many outputs an example has."""
    if outputs.ndim == 0 or len(outputs) != examples:
        raise InputError(
            f"the model's outputs have shape {tuple(outputs.shape)} for {examples} examples; expected the "
            "examples as the first dimension"
        )
    outputs = outputs.reshape(len(outputs), -1)
    if probes is None:
        return list(outputs.sum(0)), outputs.shape[1]
    made = []
    for _ in range(probes):
        direction = torch.randn(
            outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device
        )
        made.append((outputs * (direction / direction.norm(dim=1, keepdim=True))).sum())
    return made, outputs.shape[1]


def _loss_and_squared_gradient(model: nn.Module, loss: Any, x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """`L` and `‖∇_θ L‖²` of one forward pass, both with their graphs."""
    _check(model, x, inputs=False)
    per_example = resolve_loss(loss)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def of_batch(values: Values, x: Any, y: Any) -> list[Tensor]:
        outputs = _outputs(model, x, values)
        per_example.validate(outputs, y)
        return [per_example(outputs, y).mean()]

    with differentiable_attention():
        mean = of_batch({}, x, y)[0]
        gradients = _gradients(mean, parameters)
    check_penalty(model, "parameter", loss, of_batch, x, y, of_inputs=False)
    squares = [gradient.square().sum() for gradient in gradients]
    return mean, torch.stack(squares).sum()


def _outputs(model: nn.Module, x: Any, values: Values) -> Tensor:
    """Outputs, with some parameters at other values; buffers and the rest are converted to their dtype."""
    placed = {name: buffer.clone() for name, buffer in model.named_buffers()}  # not written to: a second pass
    if values:
        dtype = next(iter(values.values())).dtype
        every = {**placed, **{name: value.detach() for name, value in model.named_parameters()}}
        placed = {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in every.items()
        }
    placed |= values
    args = x if isinstance(x, tuple) else () if isinstance(x, Mapping) else (x,)
    kwargs = dict(x) if isinstance(x, Mapping) else {}
    if not placed:
        return output_tensor(model(*args, **kwargs))
    places = _places(model)  # torch's own tying leaves a module of two names without its parameters
    put = {place: value for name, value in placed.items() for place in places.get(name, [name])}
    called = functional_call(model, put, args, kwargs, tie_weights=False)
    return output_tensor(called)


def _gradients(scalar: Tensor, wanted: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients that can be differentiated again; zero where `scalar` does not depend on one."""
    if not scalar.requires_grad:
        raise InputError(
            "the model's output is cut off from its parameters and inputs (a detach, a no_grad or a rounding "
            "inside its forward pass?); expected one that can be differentiated"
        )
    try:
        found = torch.autograd.grad(scalar, wanted, create_graph=True, materialize_grads=True)
    except RuntimeError as error:
        raise UnsupportedError(
            f"the model cannot be differentiated: {str(error).splitlines()[0]}. Replace that operation."
        ) from error
    _refuse_missing_second_derivative(found)
    return found


def _refuse_missing_second_derivative(gradients: tuple[Tensor, ...]) -> None:
    """torch puts a node that raises where it has no second derivative; found now, it can be named."""
    seen: set[Any] = set()
    todo = [gradient.grad_fn for gradient in gradients if gradient.grad_fn is not None]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name().rsplit("::", 1)[-1] in _NO_SECOND_DERIVATIVE:
            raise UnsupportedError(
                "an operation of the model has a first derivative but no second, so a gradient cannot be "
                "penalised (a fused attention kernel chosen inside the model? a once_differentiable "
                "function?). Let scaled_dot_product_attention choose its kernel, or replace the operation."
            )
        todo.extend(child for child, _ in node.next_functions if child is not None)


def _check(model: nn.Module, x: Any, *, inputs: bool) -> None:
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise InputError(
            "gradients are switched off (torch.no_grad or inference_mode), so there is no penalty to train "
            "with. Call it outside."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            "no parameter of the model requires a gradient; expected at least one that is trained. Call "
            "requires_grad_(True) on those."
        )
    if not isinstance(x, Tensor) and (inputs or not isinstance(x, (tuple, Mapping))):
        raise InputError(
            f"x is a {type(x).__name__}; expected a tensor{'' if inputs else ', a tuple or a dict'}. "
            + ("Penalise one input and wrap the model in a function of it." if inputs else "Convert it.")
        )
    tensors = [x] if isinstance(x, Tensor) else list(x.values() if isinstance(x, Mapping) else x)
    for tensor in tensors:
        if isinstance(tensor, Tensor) and (tensor.ndim == 0 or len(tensor) == 0):
            raise InputError(
                f"x has shape {tuple(tensor.shape)}; expected at least one example, first dimension b"
            )
    for tensor in tensors:
        if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError("x holds NaN or infinity; expected finite inputs. Clean the batch first.")
    if not inputs or not isinstance(x, Tensor):
        return
    if not x.is_floating_point():
        raise InputError(
            f"x has dtype {x.dtype}, in which there is no gradient; expected floating-point inputs. For "
            "token numbers pass the embedded sequence and the model after its embedding."
        )
    for name, module in model.named_modules():
        if isinstance(module, _BATCH_NORM) and (module.training or not module.track_running_stats):
            raise BatchDependenceError(
                f"module {name!r} is batch normalisation with the batch's own statistics: an example's "
                "output depends on its neighbours' inputs. Put that module in eval mode, or use another "
                "normalisation (or parameter_gradient_penalty, which needs no loss per example)."
            )


def _finite(penalty: Tensor, name: str) -> Tensor:
    if not bool(torch.isfinite(penalty)):
        raise NonFiniteError(
            f"{name} is {float(penalty.detach())}; expected a finite number. Parameters or loss overflowed, "
            "or an operation (a norm or square root at zero) has no finite derivative there."
        )
    return penalty
