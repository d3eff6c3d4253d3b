"""A linear head as matrices: flat parameters, one matrix a column, and the features that it reads."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Fit
from wherefrom.task import Examples


class HeadMatrices:
    """`(c, d)` matrices, the bias as last column where it is studied, of one final linear layer.

    Attributes:
        fitted: of that layer.
        module: the layer.
        has_bias: whether the bias is studied.

    Raises:
        UnsupportedError: `why_no_head` names the reason.
    """

    def __init__(self, fitted: Fit):
        reason, head = why_no_head(fitted), fitted.engine.head
        if head is None or reason:
            raise UnsupportedError(f"no linear head: {reason}")
        self.fitted, self.module, self.has_bias = fitted, head.module, head.has_bias

    def read(self, examples: Examples) -> tuple[Float[Tensor, "n d"], Tensor, Any]:
        """Features with a 1 for the bias, outputs and targets of all examples."""
        size, parts = self.fitted.engine.batch_size, []
        for start in range(0, len(examples), size):
            where = slice(start, min(start + size, len(examples)))
            at: Any = self.fitted.engine.linearise(examples, where)
            parts.append((at.features[:, 0], at.outputs, at.targets))
        features, outputs, targets = zip(*parts)
        joined = tree_map(lambda *leaves: torch.cat(leaves), *targets)
        return self.with_one(torch.cat(features)), torch.cat(outputs), joined

    def with_one(self, features: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
        """A column of ones for the bias, if that is studied."""
        if not self.has_bias:
            return features
        return torch.cat([features, features.new_ones(*features.shape[:-1], 1)], dim=-1)

    def to_heads(self, columns: Float[Tensor, "p m"]) -> Float[Tensor, "m c d"]:
        """Flat parameter vectors as heads: the weight row by row, then the bias."""
        classes, width = self.module.out_features, self.module.in_features
        weight = columns[: classes * width].T.reshape(-1, classes, width)
        return torch.cat([weight, columns[classes * width :].T[:, :, None]], 2) if self.has_bias else weight

    def to_columns(self, heads: Float[Tensor, "m c d"]) -> Float[Tensor, "p m"]:
        """Inverse of `to_heads`."""
        width = self.module.in_features
        weight = heads[:, :, :width].reshape(len(heads), -1)
        return (torch.cat([weight, heads[:, :, width]], dim=1) if self.has_bias else weight).T


def why_no_head(fitted: Fit) -> str:
    """Why the model is no linear map of one vector per example with a convex loss; empty if it is."""
    head = fitted.engine.head
    if head is None:
        return (
            "the studied parameters are not those of one final linear layer, so the outputs are not affine "
            "in them"
        )
    if not head.single_position:
        return "the linear layer maps several positions of an example"
    if not fitted.objective.loss.convex:
        return f"loss {fitted.objective.loss.name!r} is not convex in the outputs"
    return ""
