"""What every `LayerRule` promises, as one call that a test of a new rule can make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from wherefrom.layers import Block, GradientForm, Kind, LayerRule, Layouts, Tape
from wherefrom.testing.gradient_forms import check_gradient_form


def check_layer_rule(
    rule: LayerRule,
    module: nn.Module,
    inputs: Any,
    *,
    forward: Callable[[nn.Module, Any], Tensor] | None = None,
    parameters: Sequence[str] | None = None,
    layouts: Layouts | None = None,
    cotangents: int = 2,
    seed: int = 0,
    rtol: float | None = None,
) -> list[GradientForm]:
    """Check that a rule reproduces autograd's per-example gradients of a module, and return its forms.

    The blocks hold every studied parameter once; watching leaves the outputs as they are, and nothing of it
    stays behind; explicit gradients of every block equal those of one backward pass per example; a module
    called twice gives the sum; and the forms keep the promises of `check_gradient_form`.

    Args:
        rule: your own or Wherefrom's.
        module: that the rule handles, small and preferably in float64.
        inputs: what `forward` takes: one tensor by default.
        forward: `(module, inputs) -> outputs (b, …)`, the first dimension the examples; `module(inputs)` by
            default. It may call the module several times.
        parameters: the module's own names of those that are studied; all that require gradients by default.
        layouts: of the blocks, where examples do not come first.
        cotangents: gradients per example.
        seed: of the random numbers.
        rtol: allowed relative difference; by default what the dtype allows.

    Raises:
        AssertionError: a promise that is not kept.
    """
    call = forward or (lambda module, inputs: module(inputs))
    assert rule.handles(module), f"rule {rule.name!r} does not handle this {type(module).__name__}"
    own = dict(module.named_parameters(recurse=False))
    names = [name for name in own if (own[name].requires_grad if parameters is None else name in parameters)]
    assert names, "no parameters to study"
    studied = [own[name] for name in names]
    blocks = _check_blocks(rule, module, names)
    with torch.no_grad():
        expected = call(module, inputs)
    generator = torch.Generator().manual_seed(seed)
    many = torch.randn(cotangents, *expected.shape, generator=generator, dtype=torch.float64).to(expected)
    tolerance = 1e4 * torch.finfo(expected.dtype).eps if rtol is None else rtol
    before = _state(module)
    forms: list[GradientForm] = []
    for passes in (1, 2):  # the second time the module is called twice as often
        forms = _forms(rule, module, blocks, call, inputs, passes, many, expected, tolerance, layouts)
        assert _state(module) == before, f"rule {rule.name!r} leaves something behind on the module"
        truth = passes * _by_autograd(call, module, inputs, studied, many)
        scale = float(truth.norm())
        for block, form in zip(blocks, forms):
            assert form.shape == block.shape and (form.k, form.b) == many.shape[:2], (
                f"block {block.name!r}: the form is of shape {form.shape} for {form.k} × {form.b} gradients, "
                f"expected {block.shape} for {tuple(many.shape[:2])}"
            )
            off = float((form.rows() - truth[:, :, block.index.reshape(-1)]).norm())
            assert off <= tolerance * scale, (
                f"block {block.name!r}: gradients off by {off:.3g} from autograd's, of norm {scale:.3g}"
                + (" where the module is called twice" if passes == 2 else "")
            )
    for form in forms:
        check_gradient_form(form, seed=seed, rtol=rtol)
    return forms


def _check_blocks(rule: LayerRule, module: nn.Module, names: list[str]) -> list[Block]:
    index, start = {}, 0
    for name in names:
        value = module.get_parameter(name)
        index[name] = torch.arange(start, start + value.numel(), device=value.device).reshape(value.shape)
        start += value.numel()
    blocks = rule.blocks("layer", module, index)
    covered = torch.cat([block.index.reshape(-1) for block in blocks]).sort().values
    assert covered.tolist() == list(range(start)), (
        f"the blocks hold {covered.unique().numel()} of {start} parameter entries, each of which belongs "
        "into one block once"
    )
    kinds = get_args(Kind)
    assert len({block.name for block in blocks}) == len(blocks), "two blocks of one name"
    for block in blocks:
        assert block.rule == rule.name, f"block {block.name!r} names the rule {block.rule!r}"
        assert block.kind in kinds, f"block {block.name!r} is of kind {block.kind!r}, expected one of {kinds}"
        assert block.kind != "rows" or block.shape == (1, block.size, 1), "rows are one column"
    mentioned = {name for block in blocks for name in block.parameters}
    assert mentioned == {f"layer.{name}" for name in names}, f"the blocks name {sorted(mentioned)}"
    return blocks


def _forms(
    rule: LayerRule,
    module: nn.Module,
    blocks: list[Block],
    call: Callable[[nn.Module, Any], Tensor],
    inputs: Any,
    passes: int,
    cotangents: Tensor,
    expected: Tensor,
    tolerance: float,
    layouts: Layouts | None,
) -> list[GradientForm]:
    tape = Tape(cotangents.shape[1], layouts or Layouts())
    required = [parameter.requires_grad for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        handle = rule.watch(module, blocks, tape)
        with torch.enable_grad():
            outputs = [call(module, inputs) for _ in range(passes)]
        handle.remove()
    finally:
        for parameter, value in zip(module.parameters(), required):
            parameter.requires_grad_(value)
    off = float((outputs[0].detach() - expected).norm())
    assert off <= tolerance * float(expected.norm()), f"watching changes the outputs by {off:.3g}"
    calls = [made for block in blocks for made in tape.calls.get(block.name, [])]
    for block in blocks:
        assert tape.calls.get(block.name), f"no call of block {block.name!r} was recorded"
    gradients = torch.autograd.grad(
        outputs,
        [made.edge for made in calls],
        [cotangents] * passes,
        is_grads_batched=True,
        allow_unused=True,
    )
    for made, gradient in zip(calls, gradients):
        made.receive(cotangents.new_zeros(cotangents.shape[0], *made.shape) if gradient is None else gradient)
    return [rule.form(module, block, tape.calls[block.name], tape.batch) for block in blocks]


def _by_autograd(
    call: Callable[[nn.Module, Any], Tensor],
    module: nn.Module,
    inputs: Any,
    studied: list[nn.Parameter],
    cotangents: Tensor,
) -> Tensor:
    """`(k, b, p)`, by one backward pass for each cotangent and example."""
    with torch.enable_grad():
        outputs = call(module, inputs)
    rows = [
        torch.autograd.grad(
            outputs[example],
            studied,
            cotangent[example],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        for cotangent in cotangents
        for example in range(outputs.shape[0])
    ]
    flat = torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])
    return flat.reshape(*cotangents.shape[:2], -1)


def _state(module: nn.Module) -> tuple[int, int, tuple[str, ...]]:
    """Hooks and attributes that a watch could leave on a module."""
    return len(module._forward_hooks), len(module._forward_pre_hooks), tuple(sorted(vars(module)))
