"""Are the derivatives that torch returns those of the model and the loss? Asked once, in float64, on a few
examples: a user's own `autograd.Function` and some of torch's operations return wrong ones, silently."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from wherefrom.errors import UnsupportedError
from wherefrom.gradients.autograd import AutogradLinearisation, looped_vjp_each
from wherefrom.gradients.derivative_probe import (
    PROJECTIONS,
    DerivativeProbe,
    gradient_at,
    in_float64,
    own_functions,
    parameter_probe,
)
from wherefrom.gradients.forward_products import FORWARD_PRODUCTS, ForwardProduct
from wherefrom.gradients.hvp import HVP_MODES, HvpMode, hessian_product
from wherefrom.linalg.finite_differences import SHORT_STEPS, STEPS, Discrepancy, discrepancy
from wherefrom.losses import CustomLoss, Loss
from wherefrom.memory import is_allocation_failure
from wherefrom.task import CustomRegulariser, Objective, differentiable_attention

_CHECKPOINT = (
    "Is gradient checkpointing on? Turn it off: it computes layers again with the model's own parameters, "
    "not with those that are differentiated by."
)
# What a parameter's part may be off by before it is named as a culprit.
_NAMED = 1e-3
_MOST_NAMED = 4
# Of ‖u‖‖Jv‖: so much a rounding to float32 inside a float64 network leaves, or one inside a float32 network.
_ADJOINT, _ADJOINT_SHORT = 1e-5, 1e-3


def check_outputs(probe: DerivativeProbe) -> None:
    """Refuse a model whose gradients are not those of its outputs: every score is made of them.

    Raises:
        UnsupportedError: with the parameters concerned and the likely cause.
    """
    objective, batch = probe.objective, probe.batch
    leaves = {name: value.detach().requires_grad_() for name, value in objective.parameters.values.items()}
    with torch.enable_grad(), differentiable_attention():
        outputs = objective.outputs(leaves, batch)
    if not outputs.requires_grad:
        return  # nothing depends on the parameters: refused elsewhere, in its own words
    along = probe.random(PROJECTIONS, outputs)
    slopes = []
    try:
        for row in along:
            parts = torch.autograd.grad(
                outputs, list(leaves.values()), row, retain_graph=True, materialize_grads=True
            )
            slopes.append([float((part * probe.direction[name]).sum()) for name, part in zip(leaves, parts)])
    except (RuntimeError, NotImplementedError) as error:
        if is_allocation_failure(error):
            raise
        reason = _first_line(error).rstrip(".")
        raise UnsupportedError(
            f"the model cannot be differentiated: {reason}. Replace that operation, or attribute parameters "
            f"that come after it with parameters=. {_CHECKPOINT}"
        ) from error
    claimed = torch.tensor(slopes, dtype=outputs.dtype, device=outputs.device)  # (projections, tensors)

    def projected(values: dict[str, Tensor]) -> Tensor:
        with differentiable_attention():
            return (along * objective.outputs(values, batch)).flatten(1).sum(1)

    found = probe.compare(projected, claimed.sum(1))
    if found is None:
        return
    each = {
        name: probe.compare(projected, claimed[:, column], only=name) for column, name in enumerate(leaves)
    }
    culprits = {name: one for name, one in each.items() if one is not None and one.relative > _NAMED}
    raise _wrong_gradient(found, culprits, own_functions(outputs))


def right_forward_product(probe: DerivativeProbe) -> ForwardProduct:
    """The first way to `J v` that torch can take for this model and that is the transpose of `Jᵀu`.

    Raises:
        UnsupportedError: there is none.
    """
    objective, batch = probe.objective, probe.batch
    along = objective.parameters.flatten(probe.direction)
    each = looped_vjp_each(objective)
    reasons = []
    for way in FORWARD_PRODUCTS:
        try:
            at = AutogradLinearisation(objective, batch, each=each, forward=way)
            tangent = at.jvp(along[:, None])[0]
            cotangents = probe.random(PROJECTIONS, at.outputs)
            pulled = at.vjp(cotangents).T @ along
        except (RuntimeError, NotImplementedError) as error:
            if is_allocation_failure(error):
                raise
            reasons.append(f"{way}: {_first_line(error)}")
            continue
        if not bool(torch.isfinite(pulled).all()):
            return way  # nothing to compare with: gradients of NaN are refused in their own words
        off = (cotangents * tangent).flatten(1).sum(1) - pulled
        size = cotangents.flatten(1).norm(dim=1) * tangent.norm() + pulled.abs()
        if bool((off.abs() <= (_ADJOINT if probe.exact else _ADJOINT_SHORT) * size).all()):
            return way
        reasons.append(f"{way}: not the transpose of the backward pass")
    raise UnsupportedError(
        f"products with the Jacobian do not work for this model ({'; '.join(reasons)}). Replace that "
        "operation by one torch can differentiate, or attribute parameters that come after it with "
        "parameters=."
    )


def check_loss(probe: DerivativeProbe, *, second: bool = False) -> None:
    """Refuse a user's loss whose gradient in the outputs is not its slope; with `second`, one whose second
    derivative is missing or wrong too.

    Raises:
        UnsupportedError: with what is wrong, and what works without it.
    """
    objective = probe.objective
    loss = objective.loss
    if not isinstance(loss, CustomLoss) and type(loss).__module__.startswith(_package(Loss)):
        return  # tested with this package
    with torch.no_grad():
        outputs = objective.outputs(objective.parameters.values, probe.batch)
    targets = objective.targets(probe.batch)
    size = float(outputs.square().mean().sqrt()) or 1.0
    along = size * probe.random(1, outputs)[0]

    def gradient(step: float) -> Tensor:
        leaf = (outputs + step * along).detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(loss(leaf, targets).sum(), leaf, materialize_grads=True)[0]

    first = (gradient(0.0) * along).reshape(len(outputs), -1).sum(1)
    found = discrepancy(lambda h: loss(outputs + h * along, targets), first, steps=probe.steps)
    if found is not None:
        raise UnsupportedError(
            f"the gradient of loss {loss.name!r} in the outputs is not its slope: {_off(found)}. A detach(), "
            "a torch.no_grad() or a rounding inside the loss, or a wrong backward of an own "
            "autograd.Function? Influence differentiates the loss as it is computed: write it without, and "
            "put what is meant as a constant (a weight, a teacher's outputs) into the targets."
        )
    if not second:
        return
    advice = (
        "Use curvature='empirical_fisher', which needs the gradient alone, or write the loss in torch "
        "operations."
    )
    try:
        curved = loss.hessian_apply(along[None], outputs, targets)[0]
    except (RuntimeError, NotImplementedError) as error:
        if is_allocation_failure(error):
            raise
        raise UnsupportedError(
            f"loss {loss.name!r} has no second derivative in the outputs ({_first_line(error)}), and this "
            f"curvature is made of it. {advice}"
        ) from error
    found = discrepancy(gradient, curved, steps=probe.steps)
    if found is not None and probe.exact:
        raise UnsupportedError(
            f"the second derivative of loss {loss.name!r} in the outputs is wrong: {_off(found)}. "
            f"Saved intermediates in an own autograd.Function are constants to torch. {advice}"
        )


def check_regulariser(objective: Objective) -> None:
    """Refuse a user's regulariser whose gradient or Hessian is not that of its value.

    Raises:
        UnsupportedError: with what is wrong.
    """
    given = objective.regulariser
    if not isinstance(given, CustomRegulariser):
        return
    try:
        at = parameter_probe(in_float64(objective), None, STEPS, True)
        own = CustomRegulariser(at.objective.parameters, given.function)
    except (RuntimeError, TypeError, ValueError):  # tensors that the function holds are float32
        at, own = parameter_probe(objective, None, SHORT_STEPS, False), given
    parameters = at.objective.parameters
    along = parameters.flatten(at.direction)

    def gradient(values: dict[str, Tensor]) -> Tensor:
        leaves = {name: value.detach().requires_grad_() for name, value in values.items()}
        with torch.enable_grad():
            parts = torch.autograd.grad(
                given.function(leaves).reshape(()), list(leaves.values()), materialize_grads=True
            )
        return parameters.flatten(parts)

    slope = (own.gradient() * along).sum().reshape(1)
    found, order = at.compare(lambda values: given.function(values).reshape(1), slope), "gradient"
    if found is None and at.exact:
        try:
            curved = own.hessian().matvec(along)
        except RuntimeError as error:
            raise UnsupportedError(
                f"regulariser= has no second derivative ({_first_line(error)}); its curvature is part of the "
                "objective's. Write it in torch operations that can be differentiated twice."
            ) from error
        found, order = at.compare(gradient, curved), "second derivative"
    if found is not None:
        raise UnsupportedError(
            f"the {order} of regulariser= is not that of its value: {_off(found)}. A detach() or the "
            "backward of an own autograd.Function inside it? Write it in plain torch operations."
        )


def right_hvp_modes(probe: DerivativeProbe, wanted: HvpMode | Literal["auto"]) -> list[HvpMode]:
    """The orders of differentiation, of those wanted, whose Hessian products are those of the loss.

    Raises:
        UnsupportedError: there is none, with the likely cause and the curvature that works without second
            derivatives.
    """
    right: list[HvpMode] = []
    reasons: dict[str, str] = {}
    for mode in HVP_MODES if wanted == "auto" else (wanted,):
        reason = _wrong_product(probe, mode)
        if reason is None:
            right.append(mode)
        else:
            reasons[mode] = reason
    if right:
        return right
    other = next((mode for mode in HVP_MODES if wanted not in ("auto", mode)), None)
    hint = f"hvp_mode={other!r}" if other is not None and _wrong_product(probe, other) is None else ""
    listed = "; ".join(f"by {mode}: {reason}" for mode, reason in reasons.items())
    if "saved tensor hooks" in listed:  # what functorch says of checkpoints
        listed = f"{listed.rstrip('.')}. {_CHECKPOINT}"
    raise UnsupportedError(
        f"the Hessian of this model cannot be computed: {listed.rstrip('.')}. {describe_suspects(probe)}Use "
        f"{hint + ', or ' if hint else ''}curvature='ggn', which needs first derivatives only."
    )


def _wrong_product(probe: DerivativeProbe, mode: HvpMode) -> str | None:
    """Why Hessian products in this mode are not to be had, or not to be trusted."""
    objective, batch = probe.objective, probe.batch
    parameters = objective.parameters
    along = parameters.flatten(probe.direction)
    try:
        product = hessian_product(objective, batch, mode)(along[:, None])[:, 0]
    except (RuntimeError, NotImplementedError) as error:
        if is_allocation_failure(error):
            raise
        return _first_line(error)
    claimed = probe.project(list(parameters.unflatten(product).values()))
    found = probe.compare(lambda values: probe.project(gradient_at(objective, values, batch)), claimed)
    if found is None:
        return None
    # In float32 the kinks of a ReLU look like curvature: then a known suspect is needed too.
    if not probe.exact and not describe_suspects(probe):
        return None
    return f"torch's second derivative is wrong, {_off(found)} (finite differences of the gradient)"


def describe_suspects(probe: DerivativeProbe) -> str:
    """A sentence about what is known to return wrong second derivatives."""
    name = weight_normalised(probe.objective.model)
    if name is not None:
        return (
            f"Module {name!r} is weight normalisation, whose second derivative in torch is wrong: fold "
            "the norm into the weight (remove_parametrizations) to have a Hessian. "
        )
    objective = probe.objective
    leaves = {name: value.detach().requires_grad_() for name, value in objective.parameters.values.items()}
    with torch.enable_grad(), differentiable_attention():
        found = own_functions(objective.losses(leaves, probe.batch))
    if not found:
        return ""
    return (
        f"The graph holds autograd.Function {', '.join(map(repr, found))}: a backward of its own must itself "
        "be differentiable (save inputs by save_for_backward, compute from them in torch operations). "
    )


def weight_normalised(model: nn.Module) -> str | None:
    """The first module with weight normalisation: torch's fused kernel returns a wrong second derivative on
    the CPU (seen in 2.13), silently."""
    for name, module in model.named_modules():
        hooks = module._forward_pre_hooks.values()
        if isinstance(module, parametrizations._WeightNorm) or any(
            isinstance(hook, WeightNorm) for hook in hooks
        ):
            return name
    return None


def _wrong_gradient(found: Discrepancy, culprits: dict[str, Discrepancy], own: list[str]) -> UnsupportedError:
    listed = ", ".join(map(repr, list(culprits)[:_MOST_NAMED])) + (
        ", …" if len(culprits) > _MOST_NAMED else ""
    )
    where = f" in {listed}" if culprits else ""
    claimed = max((one.claimed for one in culprits.values()), default=found.claimed)
    measured = max((one.measured for one in culprits.values()), default=found.measured)
    if claimed == 0.0:
        return UnsupportedError(
            f"the model's outputs change with the parameters {listed}, but torch gives them no gradient: a "
            "torch.no_grad(), detach(), .data or .item() in the forward pass cuts them off. Scores would "
            "leave out what they do. Remove it, or leave these parameters out with parameters= if they were "
            "not trained."
        )
    if measured == 0.0:
        return UnsupportedError(
            f"torch gives the model's outputs a gradient{where}, but they do not change when these "
            "parameters change a little: rounding, quantisation or a sign with a straight-through "
            "estimator, or a cast to half precision. Its gradient is not the derivative of what the model "
            "computes, and neither are scores. Switch quantisation off or replace it by a smooth "
            "function, or study the layers after it alone with parameters=."
        )
    cause = (
        f"The graph holds autograd.Function {', '.join(map(repr, own))}: is its backward right?"
        if own
        else "A detach() or torch.no_grad() around a part of it, a straight-through estimator, or a hook "
        "that changes gradients?"
    )
    return UnsupportedError(
        f"the gradient of the model's outputs{where} is not their slope: {_off(found)}. {cause} Influence "
        "differentiates what the model computes: remove it, or study the layers after it alone with "
        "parameters=."
    )


def _off(found: Discrepancy) -> str:
    return f"off by {found.relative:.2g} of its size"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _package(kind: type) -> str:
    return kind.__module__.rpartition(".")[0] + "."
