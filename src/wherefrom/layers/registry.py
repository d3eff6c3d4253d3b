"""Which rule serves which module."""

from __future__ import annotations

from torch import nn

from wherefrom.errors import InputError
from wherefrom.layers.attention import MultiheadAttentionRule
from wherefrom.layers.convolution import ConvolutionRule
from wherefrom.layers.embedding import EmbeddingRule
from wherefrom.layers.linear import LinearRule, TransposedLinearRule
from wherefrom.layers.norms import ChannelNormRule, LayerNormRule
from wherefrom.layers.rule import LayerRule

RULES: tuple[LayerRule, ...] = (
    LinearRule(),
    TransposedLinearRule(),
    ConvolutionRule(),
    EmbeddingRule(),
    LayerNormRule(),
    ChannelNormRule(),
    MultiheadAttentionRule(),
)
_registered: list[LayerRule] = []


def register_rule(rule: LayerRule) -> None:
    """Have a rule of your own serve the modules that its `handles` accepts, before any rule that Wherefrom
    brings. `wherefrom.testing.check_layer_rule` proves it right.

    Raises:
        InputError: not an instance of `LayerRule`, or one without a name of its own.
    """
    if not isinstance(rule, LayerRule):
        raise InputError(
            f"rule is {rule!r}; expected an instance of wherefrom.layers.LayerRule (of your subclass: "
            "register_rule(MyRule()), not register_rule(MyRule))"
        )
    name = getattr(rule, "name", None)
    if not isinstance(name, str) or not name:
        raise InputError(
            f"rule {type(rule).__name__} has name={name!r}; expected a text, shown in the coverage table. "
            "Set the class attribute name."
        )
    if rule not in _registered:
        _registered.insert(0, rule)


def unregister_rule(rule: LayerRule) -> None:
    """Undo `register_rule`.

    Raises:
        InputError: the rule is not registered.
    """
    if rule not in _registered:
        raise InputError(f"rule {getattr(rule, 'name', rule)!r} is not registered, so it cannot be taken out")
    _registered.remove(rule)


def rule_for(module: nn.Module) -> LayerRule | None:
    """The rule that handles a module, the last one registered first; `None` when there is none."""
    return next((rule for rule in (*_registered, *RULES) if rule.handles(module)), None)
