"""Layer rules: per-example gradients of modules from what enters them and the gradients of what leaves
them."""

from whence.layers.block import Block, Kind
from whence.layers.forms import GradientForm, OuterProducts, TokenOuterProducts
from whence.layers.registry import RULES, rule_for
from whence.layers.rule import LayerRule, weight_and_bias, with_ones
from whence.layers.tape import Call, Tape

__all__ = [
    "RULES",
    "Block",
    "Call",
    "GradientForm",
    "Kind",
    "LayerRule",
    "OuterProducts",
    "Tape",
    "TokenOuterProducts",
    "rule_for",
    "weight_and_bias",
    "with_ones",
]
