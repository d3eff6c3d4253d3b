"""Modules that factored gradients cannot serve are named; rules of one's own must prove right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.gradients.layer_checks import exact
from tests.gradients.layer_models import (
    Custom,
    TokenModel,
    plain,
    shared_whole,
    token_model,
)
from tests.problems import PROBLEMS, N, classification, labels, normal, seeded
from wherefrom.errors import UnsupportedError
from wherefrom.gradients import GradientEngine, LayerGradients
from wherefrom.gradients.proof import PROBES
from wherefrom.gradients.sites import find_sites
from wherefrom.layers import Block, LayerRule, register_rule, rows_form, unregister_rule


class Experts(nn.Module):
    """Each example goes to one expert, chosen by the sign of its first feature."""

    def __init__(self, signs: tuple[bool, ...] = (False, True)) -> None:
        super().__init__()
        self.signs = signs
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in signs])

    def forward(self, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), 3)
        for sign, expert in zip(self.signs, self.experts):
            chosen = (x[:, 0] > 0) == sign
            if bool(chosen.any()):
                out = out.index_put((chosen.nonzero()[:, 0],), expert(x[chosen]))
        return out


@pytest.mark.parametrize("seed", range(4))
def test_experts_see_some_of_the_examples_only(seed):
    """Also where the examples of the proof all go to one expert."""
    rules = exact(classification(seeded(Experts), normal(N, 4, seed=seed), labels(N)))
    assert {rule for rule, _ in rules.values()} == {"dense"}


def test_experts_that_share_no_batch_until_later_are_refused():
    x = normal(N, 4)
    x[:, 0] = 1
    problem = classification(seeded(lambda: Experts((True,))), x, labels(N))
    layers = LayerGradients(GradientEngine(problem.objective()))
    assert {row.rule for row in layers.coverage()} == {"linear"}
    queries = layers.objective.read((normal(6, 4), labels(6)), role="queries")
    capture = layers.capture(queries, slice(0, 6))
    with pytest.raises(UnsupportedError, match=r"module 'experts\.0' is called on \d rows for a batch of 6"):
        capture.gradients(torch.ones_like(capture.outputs)[None])


class Rare(nn.Module):
    """A module that only a certain batch calls."""

    def __init__(self) -> None:
        super().__init__()
        self.usual, self.rare = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.usual(x) + (self.rare(x) if bool((x[:, 0] > 50).any()) else 0)


def test_a_module_unused_by_all_but_another_batch_is_refused():
    problem = classification(seeded(Rare), normal(N, 4), labels(N))
    layers = LayerGradients(GradientEngine(problem.objective()))
    assert layers.coverage()[1].reason == "the outputs do not depend on it"
    queries = problem.objective().read((100 * torch.ones(2, 4), labels(2)), role="queries")
    capture = layers.capture(queries, slice(0, 2))
    with pytest.raises(UnsupportedError, match=r"parameter 'rare\.weight' changes the outputs of this batch"):
        capture.gradients(torch.ones_like(capture.outputs)[None])


def test_a_module_that_a_batch_does_not_call_has_no_gradients_there():
    x = normal(N, 4)
    x[0, 0] = 100  # a probe calls it
    problem = classification(seeded(Rare), x, labels(N))
    objective = problem.objective()
    layers = LayerGradients(GradientEngine(objective))
    capture = layers.capture(objective.examples, slice(1, N))
    forms = capture.gradients(torch.ones_like(capture.outputs)[None])
    names = [block.name for block in layers.blocks]
    if layers.coverage()[names.index("rare")].rule == "linear":
        form = forms[names.index("rare")]
        assert not form.rows().any() and form.b == N - 1 and form.activation_moment()[0].shape == (1, 5, 5)


class UsedOutsideAtTimes(nn.Module):
    """Some examples meet the first layer's weight outside of its call."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        outside = F.linear(-x, self.first.weight)
        return self.last(torch.tanh(torch.where(x[:, :1] > 50, outside, self.first(x))))


def test_a_weight_that_only_examples_beyond_the_first_asked_use_elsewhere():
    x = normal(N, 4)
    problem = classification(seeded(UsedOutsideAtTimes), x, labels(N))
    asked = problem.objective().examples.spread(PROBES)
    x[next(i for i in range(N) if i not in asked), 0] = 100.0
    rules = exact(classification(seeded(UsedOutsideAtTimes), x, labels(N)))
    assert rules["first"][0] == "dense" and "on some examples" in rules["first"][1]
    assert rules["last"] == ("linear", "")


def test_a_large_module_without_a_rule(monkeypatch):
    monkeypatch.setattr("wherefrom.gradients.layer_gradients.DENSE_LIMIT", 3)

    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.norm(m.first(x)))

    problem = plain(body, norm=Custom(4))
    engine = GradientEngine(problem.objective())
    message = (
        r"module 'norm' \(norm.weight; 4 parameters\) cannot be .*: Custom has no layer rule.*strict=False"
    )
    with pytest.raises(UnsupportedError, match=message):
        LayerGradients(engine)
    assert exact(problem, strict=False)["norm"] == ("plain module", "Custom has no layer rule")


class CustomRule(LayerRule):
    name = "llama norm"

    def handles(self, module):
        return type(module) is Custom

    def blocks(self, path, module, index):
        return [Block(path, self.name, "rows", (f"{path}.weight",), index["weight"].view(1, -1, 1))]

    def form(self, module, block, calls, batch):
        def rows(call):
            x = call.inputs * torch.rsqrt(call.inputs.square().mean(-1, keepdim=True) + 1e-6)
            return (call.gradient * x).reshape(-1, batch, *x.shape[1:]).flatten(2, -2).sum(2)

        return rows_form(sum(rows(call) for call in calls))


class Wrong(CustomRule):
    name = "wrong"

    def form(self, module, block, calls, batch):
        return rows_form(super().form(module, block, calls, batch).rows() * 2)


class Clumsy(CustomRule):
    name = "clumsy"

    def watch(self, module, blocks, tape):
        def record(module, args, output):
            raise ValueError("no such thing")

        return module.register_forward_hook(record)


@pytest.mark.parametrize(
    "rule,expected",
    [
        (CustomRule(), ("llama norm", "")),
        (Wrong(), ("dense", "the rule 'wrong' gives other gradients than autograd")),
        (Clumsy(), ("dense", "no such thing")),
    ],
)
def test_a_registered_rule_is_used_where_it_proves_right(rule, expected):
    register_rule(rule)
    try:
        rules = exact(token_model(norm=Custom))
    finally:
        unregister_rule(rule)
    assert rules["body.norms.1"] == expected
    assert rules["tokens"] == ("embedding", "")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("way", ["script", "trace"])
def test_scripted_modules_are_named(way):
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.inner(m.first(x)))

    inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh()).double()
    made = torch.jit.script(inner) if way == "script" else torch.jit.trace(inner, normal(2, 4))
    engine = GradientEngine(plain(body, inner=made).objective())
    with pytest.raises(UnsupportedError, match=r"module 'inner' is scripted or traced by torch\.jit"):
        LayerGradients(engine)


@pytest.mark.parametrize("in_place", [False, True])
def test_compiled_modules_are_named(in_place):
    def body(m: nn.Module, x: Tensor) -> Tensor:
        return m.last(m.inner(m.first(x)))

    inner: nn.Module = nn.Linear(4, 4)
    if in_place:
        inner.compile(backend="eager")
    else:
        inner = torch.compile(inner, backend="eager")
    objective = plain(body, inner=inner).objective()
    with pytest.raises(UnsupportedError, match=r"module 'inner' is compiled by torch\.compile"):
        find_sites(objective.model, objective.parameters)


def test_what_lies_outside_the_selection_may_be_compiled():
    problem = plain(shared_whole, other=torch.compile(nn.Linear(4, 4), backend="eager"))
    problem.options["parameters"] = "last"
    objective = problem.objective()
    assert [site.name for site in find_sites(objective.model, objective.parameters)] == ["last"]


def test_single_precision_model_computed_in_double():
    model = seeded(lambda: TokenModel()).float()
    problem = token_model()
    problem.model = model
    problem.options["dtype"] = torch.float64
    objective = problem.objective()
    layers = LayerGradients(GradientEngine(objective))
    assert {row.rule for row in layers.coverage()} == {"embedding", "linear", "layer norm", "attention"}


def test_captures_cover_the_set_in_order():
    problem = PROBLEMS["tanh_mlp"]()
    objective = problem.objective()
    layers = LayerGradients(GradientEngine(objective))
    each = int(min(objective.memory * 0.25, 256 * 2**20) // 8 // 4)
    covered = [where for where, _ in layers.captures(objective.examples, numbers_each=each)]
    assert len(covered) > 1
    assert [i for where in covered for i in range(where.start, where.stop)] == list(range(N))
