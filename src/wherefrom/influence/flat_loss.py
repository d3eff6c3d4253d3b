"""A loss without curvature in the outputs has no influence function: how far a prediction moves is decided by
what is not smooth."""

from __future__ import annotations

import torch
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.task import Objective


def refuse_flat_loss(objective: Objective) -> None:
    """Refuse a loss whose second derivative is zero at every training example while its first is not.

    The absolute error, the pinball loss and the hinge are such: their minimum is held by kinks, which no
    second derivative sees. `C` would be the damping alone, and scores inner products over it.

    Args:
        objective: of the fit.

    Raises:
        UnsupportedError: the loss is flat.
    """
    slope = False
    for _, outputs, targets in objective.passes(objective.examples):
        curved, sloped = _derivatives(objective, outputs, targets)
        if curved:
            return
        slope = slope or sloped
    if slope:
        raise UnsupportedError(
            f"loss {objective.loss.name!r} has no curvature: its second derivative in the outputs is zero at "
            "every training example, so influence functions do not exist (the minimum is held by kinks, as "
            "of the absolute error, the pinball loss and the hinge). Use a smooth version of it, such as "
            "HuberLoss with a delta above most errors, wherefrom.losses.SmoothHinge(t) for a hinge, or "
            "a softplus for each side of the pinball loss; or solver='identity', which compares gradients "
            "without any curvature."
        )


def _derivatives(objective: Objective, outputs: Tensor, targets: object) -> tuple[bool, bool]:
    """Whether the loss has a second, and a first, derivative in the outputs that is not zero."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        losses = objective.loss(leaf, targets)
        if not losses.requires_grad:
            return False, False
        (first,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
        sloped = bool((first != 0).any())
        if not first.requires_grad:
            return False, sloped
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(first.shape, generator=generator, dtype=torch.float64).to(first)
        (second,) = torch.autograd.grad((first * direction).sum(), leaf, allow_unused=True)
    return second is not None and bool((second != 0).any()), sloped
