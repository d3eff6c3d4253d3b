"""Layer rules: per-example gradients of modules from what enters them and the gradients of what leaves
them."""

from wherefrom.layers.block import Block, Kind
from wherefrom.layers.forms import GradientForm
from wherefrom.layers.outer_products import OuterProducts, rows_form
from wherefrom.layers.plain_module import PlainModuleRule
from wherefrom.layers.registry import RULES, register_rule, rule_for, unregister_rule
from wherefrom.layers.rule import LayerRule, weight_and_bias, with_ones
from wherefrom.layers.tape import Call, Layouts, Tape
from wherefrom.layers.token_outer_products import TokenOuterProducts

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
