"""Influence with respect to inputs: against dense autograd, differences of scores, and retraining."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from tests.problems import Attention, dict_with_logits, labels, normal
from tests.support import (
    Plain,
    as_a_user,
    cross_entropy,
    digits,
    seeded,
    small_conv,
    small_mlp,
    softmax_regression,
)
from wherefrom import Influence
from wherefrom.errors import InputError
from wherefrom.influence.input_influence import input_influence
from wherefrom.influence.token_replacements import token_replacements

ALPHA = 0.05


@functools.lru_cache
def convex() -> Plain:
    return softmax_regression(80, classes=3, decay=ALPHA)


def queries(count: int = 5, pool: int = 2) -> tuple[Tensor, Tensor]:
    return digits(count, start=300, classes=3, pool=pool)


def fit(plain: Plain, **options) -> Influence:
    options = {"loss": "cross_entropy", "weight_decay": float(plain.decay[0]), "damping": 0.0, **options}
    return Influence(plain.model, (plain.x, plain.y), progress=False, **options).fit()


def dense(plain: Plain, data: tuple[Tensor, Tensor], index: int, matrix: Tensor) -> Tensor:
    """`−∇mᵀ C⁻¹ ∂g/∂x` row by row, the mixed derivative formed in full."""
    solved = torch.linalg.solve(matrix, plain.gradients(data).T)

    def gradient(x: Tensor) -> Tensor:
        def loss(theta: Tensor) -> Tensor:
            return cross_entropy(plain.outputs(theta, x[None]), plain.y[index : index + 1]).sum()

        return torch.func.grad(loss)(plain.theta)

    mixed = torch.func.jacrev(gradient)(plain.x[index]).reshape(plain.p, -1)
    return -(solved.T @ mixed).view(-1, *plain.x.shape[1:])


@pytest.mark.parametrize(
    "build", [convex, small_mlp, small_conv], ids=["softmax regression", "network", "convolution"]
)
def test_rows_equal_the_dense_mixed_derivative(build):
    plain = build()
    pool = 2 if plain.x.shape[1] == 16 else 1
    data = queries(4, pool=pool)
    curvature = "ggn" if build is not convex else "auto"
    damping = 0.01
    influence = fit(plain, curvature=curvature, damping=damping, solver="exact")
    matrix = (plain.ggn() if build is not convex else plain.hessian()) + damping * torch.eye(plain.p).double()
    found = input_influence(influence, data, examples=[7, 0, 21], mean=False, batch_size=2)
    assert found.values.shape == (4, 3, *plain.x.shape[1:]) and found.converged
    for column, i in enumerate((7, 0, 21)):
        torch.testing.assert_close(
            found.values[:, column], dense(plain, data, i, matrix), rtol=1e-6, atol=1e-9
        )


def test_the_mean_over_queries_is_the_mean_of_the_rows():
    influence = fit(convex())
    rows = input_influence(influence, queries(), mean=False)
    mean = input_influence(influence, queries())
    assert mean.values.shape == (1, 80, 16)
    torch.testing.assert_close(mean.values[0], rows.values.mean(0), rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(mean.norm(1)[0], mean.values[0].abs().sum(1))
    assert mean.top(3, order=1) == mean.norm(1)[0].argsort(descending=True)[:3].tolist()


def test_it_is_the_derivative_of_minus_the_score():
    """`score(z_δ) − score(z) ≈ −I_pert · δ`: the score of an edited copy by scoring it as a training
    example."""
    plain = convex()
    influence = fit(plain)
    found = input_influence(influence, queries(), examples=[3], mean=False)
    step = 1e-5 * normal(16)
    ends = []
    for sign in (1, -1):
        # The gradient of an edited example, by asking for its parameters' influence −C⁻¹g.
        moved = influence.parameter_influence((plain.x[3:4] + sign * step, plain.y[3:4]))[0]
        ends.append(-plain.gradients(queries()) @ -moved)
    torch.testing.assert_close((ends[0] - ends[1]) / 2, found.values[:, 0] @ step, rtol=1e-6, atol=1e-12)


def test_retraining_with_an_edited_example_changes_the_loss_as_predicted():
    plain = convex()
    influence = fit(plain)
    found = input_influence(influence, queries(), mean=False)
    i = found.top(1)[0]
    before = plain.losses(plain.theta, queries())
    errors = []
    for size in (1e-2, 1e-3):
        delta = size * found.values[0, i].sign()
        edited = plain.x.clone()
        edited[i] += delta
        other = Plain(plain.model, cross_entropy, (edited, plain.y), ALPHA)
        actual = plain.losses(other.minimise(start=plain.theta), queries()) - before
        change = torch.zeros_like(plain.x)
        change[i] = delta
        predicted = found.predicted_change(change)[:, i]
        assert actual[0] > 0
        torch.testing.assert_close(predicted, actual, rtol=0.1, atol=1e-3 * float(actual.abs().max()))
        errors.append(float((predicted - actual).norm() / actual.norm()))
    assert errors[1] < 0.2 * errors[0]  # first order: the relative error falls with the size


def test_a_head_on_frozen_features_is_differentiated_through_the_whole_model():
    data = digits(40, classes=3, pool=2)
    model = seeded(lambda: nn.Sequential(nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3)))
    model[0].requires_grad_(False)
    frozen = Plain(model[2], cross_entropy, (model[:2](data[0]).detach(), data[1]), 0.02).trained()
    with torch.no_grad():
        model[2].weight.copy_(frozen.theta[:18].view(3, 6))
        model[2].bias.copy_(frozen.theta[18:])
    influence = Influence(
        model, data, loss="cross_entropy", weight_decay=0.02, damping=0.0, progress=False
    ).fit()
    found = input_influence(influence, queries(), examples=[5], mean=False)
    step = 1e-5 * normal(16)
    solved = torch.linalg.solve(
        frozen.hessian(), frozen.gradients((model[:2](queries()[0]).detach(), queries()[1])).T
    )
    ends = [
        -frozen.gradients((model[:2](data[0][5:6] + sign * step).detach(), data[1][5:6])) @ solved
        for sign in (1, -1)
    ]
    torch.testing.assert_close((ends[0] - ends[1])[0] / 2, found.values[:, 0] @ step, rtol=1e-5, atol=1e-12)


def test_one_of_several_inputs_is_chosen_by_its_key():
    problem = dict_with_logits()
    objective = Influence(problem.model, problem.data, loss=problem.loss, damping=0.1, progress=False).fit()
    with pytest.raises(InputError, match=r"2 floating-point inputs.*input="):
        input_influence(objective, problem.data)
    found = input_influence(objective, problem.data, input="shift", examples=[0, 1])
    assert found.values.shape == (1, 2, 3)
    with pytest.raises(InputError, match="input='colour' names nothing"):
        input_influence(objective, problem.data, input="colour")
    with pytest.raises(InputError, match="input='labels' is int64"):
        input_influence(objective, problem.data, input="labels")


class Bag(nn.Module):
    """A sentence classifier: mean of embeddings, one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4, padding_idx=0)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens).mean(1))


def sentences() -> tuple[nn.Module, tuple[Tensor, Tensor], Influence]:
    model = seeded(Bag)
    data = labels(20, 5, classes=8, seed=4) + 1, labels(20)
    options = {"loss": "cross_entropy", "weight_decay": 0.05, "curvature": "ggn", "damping": 0.05}
    return model, data, Influence(model, data, progress=False, **options).fit()


def test_embeddings_stand_in_for_tokens():
    model, data, influence = sentences()
    found = input_influence(influence, data, embedding="embed", examples=[2, 3], mean=False)
    assert found.values.shape == (20, 2, 5, 4)
    by_module = input_influence(influence, data, embedding=model.embed, examples=[2, 3], mean=False)
    torch.testing.assert_close(found.values, by_module.values)
    # Differences of −sᵀg with the embeddings' output moved by hand.
    step = 1e-5 * normal(5, 4)
    solved = -influence.parameter_influence(data)  # C⁻¹ g of every example, its loss the measurement

    def products(sign: float) -> Tensor:
        # The copy that runs: hooks on the user's own model come too late to change a score.
        own = influence.objective.model.embed
        handle = own.register_forward_hook(lambda _, __, made: made + sign * step)
        try:
            moved = influence.parameter_influence((data[0][2:3], data[1][2:3]))[0]
        finally:
            handle.remove()
        operator = influence.prepared.operator
        return solved @ operator.matmat(moved[:, None])[:, 0]

    torch.testing.assert_close(
        (products(1) - products(-1)) / 2, (found.values[:, 0] * step).sum((1, 2)), rtol=1e-5, atol=1e-11
    )


def test_token_replacements_are_scored_exactly():
    _, data, influence = sentences()
    asked = (data[0][:3], data[1][:3])
    found = token_replacements(influence, 6, asked, embedding="embed", top=4, rescore=1000)
    assert found.considered == 5 * 7 and len(found) == 4  # 8 words, one of them in place
    operator = influence.prepared.operator
    gradient = -operator.matmat(influence.parameter_influence(asked).T).mean(1)
    every = []
    for position in range(5):
        for token in range(1, 9):
            if token == int(data[0][6, position]):
                continue
            edited = data[0][6:7].clone()
            edited[0, position] = token
            pair = torch.cat([edited, data[0][6:7]]), data[1][6:7].repeat(2)
            moved = influence.parameter_influence(pair)  # −C⁻¹g
            every.append((float(gradient @ (moved[0] - moved[1])) / 20, position, token))
    every.sort(key=lambda entry: -abs(entry[0]))
    for row, (value, position, token) in zip(found, every):
        assert (row["position"], row["token"]) == (position, token)
        assert row["exact"] == pytest.approx(value, rel=1e-6)
        assert row["original"] == int(data[0][6, position])
    raised = token_replacements(influence, 6, asked, embedding="embed", direction="raise", top=1)
    lowered = token_replacements(influence, 6, asked, embedding="embed", direction="lower", top=1)
    assert float(raised.exact[0]) == pytest.approx(max(value for value, _, _ in every), rel=1e-6)
    assert float(lowered.exact[0]) == pytest.approx(min(value for value, _, _ in every), rel=1e-6)


def test_first_order_is_exact_for_a_loss_linear_in_the_embedding():
    """Replacing a token by one whose embedding differs little: both columns agree."""
    model, data, influence = sentences()
    with torch.no_grad():
        model.embed.weight[5] = model.embed.weight[6] + 1e-6 * normal(4)
    # The embedding itself is not studied: then nothing but its output changes.
    influence = Influence(
        model, data, loss="cross_entropy", parameters="head", damping=0.05, curvature="ggn", progress=False
    ).fit()
    example = int((data[0] == 6).any(1).nonzero()[0, 0])
    at = int((data[0][example] == 6).nonzero()[0, 0])
    found = token_replacements(influence, example, data, embedding="embed", candidates=[5], positions=[at])
    assert float(found.first_order[0]) == pytest.approx(float(found.exact[0]), rel=1e-4)


def test_bad_requests_are_refused():
    plain = convex()
    influence = fit(plain)
    _, data, sentence = sentences()
    with as_a_user():
        with pytest.raises(InputError, match=r"no continuous input.*int64.*embedding="):
            input_influence(sentence, data)
        with pytest.raises(InputError, match="80 is outside"):
            input_influence(influence, queries(), examples=[80])
        with pytest.raises(InputError, match="indices is empty"):
            input_influence(influence, queries(), examples=[])
        with pytest.raises(InputError, match="queries is empty"):
            input_influence(influence, (plain.x[:0], plain.y[:0]))
        with pytest.raises(InputError, match="batch_size=0"):
            input_influence(influence, queries(), batch_size=0)
        with pytest.raises(InputError, match="both input= and embedding="):
            input_influence(influence, queries(), input=0, embedding="embed")
        with pytest.raises(InputError, match="no module of the model"):
            input_influence(sentence, data, embedding="words")
        with pytest.raises(InputError, match="not part of the model"):
            input_influence(sentence, data, embedding=nn.Embedding(9, 4))
        with pytest.raises(InputError, match=r"change has shape \(2, 16\)"):
            input_influence(influence, queries(), examples=[1]).predicted_change(torch.zeros(2, 16).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "up"}, "direction='up'"),
        ({"top": 0}, "top=0"),
        ({"embedding": "head"}, "is a Sequential"),
        ({"candidates": [9]}, "from 9 to 9.*0 to 8"),
        ({"candidates": []}, "found 0 tokens"),
        ({"positions": [5]}, r"positions=\[5\].*0 to 4"),
    ],
)
def test_bad_token_requests_are_refused(options, message):
    _, data, influence = sentences()
    with as_a_user(), pytest.raises(InputError, match=message):
        token_replacements(influence, 0, data, **{"embedding": "embed", **options})


def test_attention_is_differentiated_twice():
    model = seeded(Attention)
    tokens = labels(6, 3, classes=5, seed=2)
    data = tokens, labels(6, 3, classes=5, seed=3)
    influence = Influence(
        model, data, loss="cross_entropy", curvature="ggn", damping=0.1, progress=False
    ).fit()
    found = input_influence(influence, data, embedding="embed")
    assert found.values.shape == (1, 6, 3, 4) and bool(torch.isfinite(found.values).all())
