"""Rules of one's own: found first, proved by the public check, refused where they are no rules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.layers.layer_inputs import normal, seeded
from tests.support import as_a_user
from wherefrom.errors import InputError
from wherefrom.layers import (
    Block,
    Call,
    LayerRule,
    OuterProducts,
    register_rule,
    rows_form,
    rule_for,
    unregister_rule,
)
from wherefrom.layers.linear import LinearRule
from wherefrom.testing import check_gradient_form, check_layer_rule


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class ShiftRule(LayerRule):
    name = "shift"

    def handles(self, module):
        return type(module) is Shift

    def blocks(self, path, module, index):
        return [Block(path, self.name, "rows", (f"{path}.by",), index["by"].view(1, -1, 1))]

    def form(self, module, block, calls: list[Call], batch):
        return rows_form(sum(call.gradient for call in calls))


class ForgetsACall(ShiftRule):
    def form(self, module, block, calls, batch):
        return rows_form(calls[0].gradient)


class ChangesTheOutput(ShiftRule):
    def watch(self, module, blocks, tape):
        return module.register_forward_hook(lambda _, args, output: tape.tap(blocks[0], args[0], 2 * output))


class LeavesAHook(ShiftRule):
    def watch(self, module, blocks, tape):
        handle = super().watch(module, blocks, tape)
        module.register_forward_hook(lambda _, args, output: None)
        return handle


class CoversHalf(ShiftRule):
    def blocks(self, path, module, index):
        return [Block(path, self.name, "rows", (f"{path}.by",), index["by"][:2].view(1, -1, 1))]


class NeverTaps(ShiftRule):
    def watch(self, module, blocks, tape):
        return module.register_forward_hook(lambda _, args, output: None)


def test_a_rule_of_ones_own_comes_first():
    rule, other = ShiftRule(), ShiftRule()
    assert rule_for(Shift()) is None
    for each in (rule, rule, other):
        register_rule(each)
    try:
        assert rule_for(Shift()) is other
        unregister_rule(other)
        assert rule_for(Shift()) is rule
    finally:
        unregister_rule(rule)
    assert rule_for(Shift()) is None
    check_layer_rule(rule, seeded(Shift), normal(2, 3))


@pytest.mark.parametrize("given", [ShiftRule, "shift", None])
def test_what_is_no_rule_is_refused(given):
    with (
        as_a_user(),
        pytest.raises(InputError, match=r"expected an instance of wherefrom\.layers\.LayerRule"),
    ):
        register_rule(given)


def test_a_rule_without_a_name_is_refused():
    class Nameless(ShiftRule):
        name = ""

    with pytest.raises(InputError, match="Nameless has name=''"):
        register_rule(Nameless())


def test_a_rule_that_is_not_registered_cannot_be_taken_out():
    with pytest.raises(InputError, match="'shift' is not registered"):
        unregister_rule(ShiftRule())


@pytest.mark.parametrize(
    "rule,message",
    [
        (ForgetsACall(), "off by .* from autograd's.*called twice"),
        (ChangesTheOutput(), "watching changes the outputs"),
        (LeavesAHook(), "leaves something behind"),
        (CoversHalf(), "hold 2 of 3 parameter entries"),
        (NeverTaps(), "no call of block 'layer' was recorded"),
        (LinearRule(), "does not handle this Shift"),
    ],
)
def test_the_check_finds_broken_rules(rule, message):
    with pytest.raises(AssertionError, match=message):
        check_layer_rule(rule, seeded(Shift), normal(2, 3))


class Broken(OuterProducts):
    """One promise after the other is broken."""

    def __init__(self, what: str):
        super().__init__(normal(2, 3, 1, 4), normal(2, 2, 3, 1, 5, seed=1))
        self._what = what

    def inner(self, matrices):
        return super().inner(matrices) * (2 if self._what == "inner" else 1)

    def squares(self):
        return super().squares() * (2 if self._what == "squares" else 1)

    def weighted_squares(self, weights):
        return super().weighted_squares(weights) * (2 if self._what == "weighted_squares" else 1)

    def squared_norms(self):
        return super().squared_norms() * (2 if self._what == "squared_norms" else 1)

    def gradient_moment(self):
        return super().gradient_moment() + (torch.ones(5, 5).triu() if "transpose" in self._what else 0)

    def select(self, examples):
        return super().select(slice(0, 1) if self._what == "some of the examples" else examples)

    def rotated(self, left, right):
        return super().rotated(left, None if self._what == "both sides" else right)


@pytest.mark.parametrize(
    "what",
    [
        "inner",
        "squares",
        "weighted_squares",
        "squared_norms",
        "gradient_moment against its transpose",
        "some of the examples",
        "both sides",
    ],
)
def test_the_check_finds_broken_forms(what):
    check_gradient_form(Broken("nothing"))
    with pytest.raises(AssertionError, match=what):
        check_gradient_form(Broken(what))
