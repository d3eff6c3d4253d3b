"""Operations whose derivatives are missing or wrong in one way each, and right ones that look like them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def slope(x: Tensor) -> Tensor:
    """Of `softsign`."""
    return 1 / (1 + x.abs()) ** 2


class Softsign(Function):
    """Right to any order."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x / (1 + x.abs())

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * slope(x)


class SavedIntermediate(Softsign):
    """The slope is a constant to torch: no second derivative, in silence."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = slope(x)
        return x / (1 + x.abs())

    @staticmethod
    def backward(ctx, g):
        return g * ctx.slope


class OnceDifferentiable(Softsign):
    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * slope(x)


class InNumpy(Softsign):
    """Neither the slope nor the gradient that comes in is followed."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(g.detach().numpy() / (1 + np.abs(x.detach().numpy())) ** 2)


class WrongBackward(Softsign):
    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * slope(x).sqrt()


class Reversal(Function):
    """As in domain-adversarial training."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):
        return -g


class StraightThrough(Function):
    @staticmethod
    def forward(ctx, x):
        return torch.sign(x)

    @staticmethod
    def backward(ctx, g):
        return g


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def net(function, width: int = 4) -> nn.Module:
    """Two dense layers around a function."""
    return nn.Sequential(nn.Linear(4, width), Apply(function), nn.Linear(width, 3))
