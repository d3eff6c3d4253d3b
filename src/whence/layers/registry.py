"""Which rule serves which module."""

from __future__ import annotations

from torch import nn

from whence.layers.linear import LinearRule, TransposedLinearRule
from whence.layers.rule import LayerRule

RULES: tuple[LayerRule, ...] = (LinearRule(), TransposedLinearRule())


def rule_for(module: nn.Module) -> LayerRule | None:
    """The rule that handles a module; `None` when there is none."""
    return next((rule for rule in RULES if rule.handles(module)), None)
