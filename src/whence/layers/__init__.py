"""Layer rules: per-example gradients of modules from what enters them and the gradients of what leaves
them."""

from whence.layers.block import Block, Kind
from whence.layers.forms import GradientForm
from whence.layers.outer_products import OuterProducts, rows_form
from whence.layers.plain_module import PlainModuleRule
from whence.layers.registry import RULES, register_rule, rule_for, unregister_rule
from whence.layers.rule import LayerRule, weight_and_bias, with_ones
from whence.layers.tape import Call, Layouts, Tape
from whence.layers.token_outer_products import TokenOuterProducts

__all__ = [
    "RULES",
    "Block",
    "Call",
    "GradientForm",
    "Kind",
    "LayerRule",
    "Layouts",
    "OuterProducts",
    "PlainModuleRule",
    "Tape",
    "TokenOuterProducts",
    "register_rule",
    "rows_form",
    "rule_for",
    "unregister_rule",
    "weight_and_bias",
    "with_ones",
]
