"""What influence is not defined for is refused before anything is computed, naming the thing and the fix."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.problems import attention_tokens, labels, mlp, normal, seeded, tanh_mlp
from tests.support import as_a_user
from wherefrom import Influence
from wherefrom.errors import BatchDependenceError, InputError, NonFiniteError
from wherefrom.losses import CustomLoss
from wherefrom.task import Objective, check_batch_independence, check_examples, check_model

X, Y = normal(9, 4), labels(9)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Dropout(0.5), r"module '0' is dropout in training mode.*model\.eval\(\)"),
        (nn.AlphaDropout(0.1), "is dropout in training mode"),
        (nn.Dropout2d(0.1), "is dropout in training mode"),
        (nn.BatchNorm1d(4), r"batch normalisation that uses the batch's own statistics.*model\.eval\(\)"),
        (nn.MultiheadAttention(4, 1, dropout=0.1), "attention dropout in training mode"),
        (nn.LSTM(4, 4, num_layers=2, dropout=0.1), "dropout between its layers"),
    ],
)
def test_random_and_coupled_layers_are_refused_in_training_mode(layer, message):
    model = nn.Sequential(layer, nn.Linear(4, 3)).train()
    with pytest.raises(InputError, match=message):
        check_model(model)
    check_model(model.eval())


def test_layers_that_do_nothing_are_accepted():
    check_model(nn.Sequential(nn.Dropout(0.0), nn.Linear(4, 3)).train())


def test_batch_norm_without_running_statistics_is_refused_even_in_evaluation():
    with pytest.raises(InputError, match="track_running_stats=True"):
        check_model(nn.BatchNorm1d(4, track_running_stats=False).eval())


class Called(nn.Module):
    """A linear layer with a function before or after it."""

    def __init__(self, before=lambda x: x, after=lambda z: z) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(self.before(x)))


def called(**functions) -> nn.Module:
    return seeded(lambda: Called(**functions))


def independence(model: nn.Module, loss="cross_entropy", data=(X, Y), **options) -> None:
    check_batch_independence(Objective(model, data, loss=loss, **options))


def test_a_forward_pass_that_is_random_is_detected():
    with pytest.raises(BatchDependenceError, match="two different losses: the forward pass is random"):
        independence(called(before=lambda x: F.dropout(x, 0.5)))


@pytest.mark.parametrize(
    "functions",
    [
        {"before": lambda x: x - x.mean(0)},
        {"after": lambda z: (z - z.mean(0)) / (1 + z.std(0, correction=0))},
    ],
)
def test_statistics_of_the_batch_are_detected(functions):
    with pytest.raises(BatchDependenceError, match=r"example \d has loss .* in a batch of 4 but .* alone"):
        independence(called(**functions))


def test_a_loss_normalised_over_the_batch_is_detected():
    def normalised(f: Tensor, y: Tensor) -> Tensor:
        losses = F.cross_entropy(f, y, reduction="none")
        return losses / losses.sum()

    with pytest.raises(BatchDependenceError, match="normalised over the batch"):
        independence(mlp(), CustomLoss(normalised))


class MeanOverTokens(nn.Module):
    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.masked = masked

    def forward(self, tokens: Tensor) -> Tensor:
        kept = (tokens > 0).unsqueeze(-1) if self.masked else torch.ones_like(tokens).unsqueeze(-1)
        return (self.embed(tokens) * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize("masked", [True, False])
def test_padding_without_a_mask_is_detected(masked):
    # The first ones are equally long: only examples further on show the padding.
    items = [(torch.arange(1, 1 + length), length % 3) for length in (3, 3, 3, 3, 3, 3, 4, 2, 3, 1)]

    def pad(batch):
        return pad_sequence([x for x, _ in batch], batch_first=True), torch.tensor([y for _, y in batch])

    model = seeded(lambda: MeanOverTokens(masked))
    if masked:
        independence(model, data=items, collate=pad)
    else:
        with pytest.raises(BatchDependenceError, match="padding without a mask"):
            independence(model, data=items, collate=pad)


def test_a_single_example_and_fewer_than_the_probe_are_fine():
    independence(mlp(), data=(X[:1], Y[:1]))
    independence(mlp(), data=(X[:3], Y[:3]))


def checked(model: nn.Module, loss, data=(X, Y)) -> None:
    objective = Objective(model, data, loss=loss)
    objective.pass_size = 4
    check_examples(objective, objective.examples, progress=False)


def test_good_examples_pass():
    checked(mlp(), "cross_entropy")


def test_labels_out_of_range_are_named():
    y = Y.clone()
    y[5] = 3
    with pytest.raises(InputError, match=r"train examples 4\.\.7:.*3"):
        checked(mlp(), "cross_entropy", (X, y))


def test_data_that_is_not_finite_is_named():
    x = X.clone()
    x[7, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="train: example 7 holds NaN"):
        checked(mlp(), "cross_entropy", (x, Y))


def test_outputs_that_are_not_finite_are_named():
    model = called(after=lambda z: z / (z[:, :1] != z[:, :1]))
    with pytest.raises(NonFiniteError, match="the model's output for train example 0 is NaN or infinite"):
        checked(model, "cross_entropy")


def test_losses_that_are_not_finite_are_named():
    def infinite(f: Tensor, y: Tensor) -> Tensor:
        return f.sum(1) + torch.where(y == 2, torch.inf, 0.0)

    first = int((Y == 2).nonzero()[0])
    with pytest.raises(InputError, match=f"train example.* {first // 4 * 4}"):
        checked(mlp(), CustomLoss(infinite))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda f, y: F.cross_entropy(f, y), "returned a scalar, a mean or a sum over the batch"),
        (lambda f, y: f, r"returned shape \(4, 3\); expected a tensor of shape \(4,\)"),
        (lambda f, y: 1.0, "returned a float"),
    ],
)
def test_a_loss_that_is_not_one_number_per_example_is_refused(loss, message):
    with pytest.raises(InputError, match=message):
        checked(mlp(), loss)


def test_a_loss_of_a_third_party_is_checked_too():
    from wherefrom.losses import Loss, SquaredError

    class Mean(Loss):
        name, convex = "mean", True
        validate = to_blocks = from_blocks = hessian_blocks = hessian_sqrt_blocks = settings = (
            lambda self, *_: None
        )

        def __call__(self, outputs, targets):
            return outputs.mean()

    assert issubclass(SquaredError, Loss)
    with pytest.raises(InputError, match=r"loss 'mean' returned shape \(\) for 4 examples.*reduction='none'"):
        checked(mlp(), Mean())


@pytest.mark.parametrize("after", [lambda z: z.mean(), lambda z: z.T, lambda z: z[:2]])
def test_outputs_without_the_examples_first_are_refused(after):
    with pytest.raises(InputError, match="expected the examples as the first dimension"):
        Influence(called(after=after), (X, Y), loss="cross_entropy", progress=False).fit()


def test_outputs_that_lose_their_first_dimension_for_one_example_are_refused():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 1), Squeeze()))
    with pytest.raises(InputError, match=r"shape \(\) for a batch of 1 examples.*squeeze"):
        Influence(model, (X, (Y > 0).double()), loss="binary_cross_entropy", progress=False).fit()


class Squeeze(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.squeeze()


class WithoutGradients(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = mlp()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def test_outputs_that_do_not_depend_on_the_parameters_are_refused():
    with pytest.raises(InputError, match=r"do not depend on the studied parameters.*torch\.no_grad\(\)"):
        Influence(WithoutGradients().eval(), (X, Y), loss="cross_entropy", progress=False).fit()


def test_the_model_must_be_a_module():
    with as_a_user(), pytest.raises(InputError, match=r"model is a function; expected a torch\.nn\.Module"):
        Objective(lambda x: x, (X, Y), loss="cross_entropy")


@pytest.mark.parametrize("problem", [tanh_mlp, attention_tokens])
def test_independence_of_good_models(problem):
    check_batch_independence(problem().objective())


def test_batches_and_outputs_of_unknown_form_say_which_argument_to_pass():
    def fit(data, model=None, **options):
        objective = Objective(model or mlp(), data, loss="cross_entropy", **options)
        check_examples(objective, objective.examples, progress=False)

    with pytest.raises(InputError, match=r"keys \['answer', 'x'\]; expected exactly one of labels, label"):
        fit({"x": X, "answer": Y})
    with pytest.raises(
        InputError, match=r"a batch is a Tensor; expected a tuple \(inputs, targets\) or a dict"
    ):
        fit(X)
    with pytest.raises(
        InputError, match=r"the model returned a tuple; expected a tensor or an object with \.logits"
    ):
        fit((X, Y), called(after=lambda z: (z, z)))
    fit(
        {"x": X, "answer": Y},
        forward=lambda model, batch: model(batch["x"]),
        target=lambda batch: batch["answer"],
    )
    fit((X, Y), called(after=lambda z: {"logits": z}))


def test_a_forward_pass_that_writes_into_its_input_is_refused():
    x = normal(6, 3)
    kept = x.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2).double())
    with pytest.raises(InputError, match="inplace=False"):
        Influence(model, (x, labels(6, 2)), loss="cross_entropy").fit()
    assert torch.equal(x, kept)


class Single(nn.Module):
    """A layer whose input is made single precision, whatever the computation's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


def test_errors_of_a_forward_pass_name_the_batch_and_the_dtype():
    with pytest.raises(
        InputError,
        match=r"forward pass failed on a batch of train \(\(1, 4\) float64, \(1,\) int64\) in float64: "
        r"RuntimeError: .*same dtype.*dtype=.*forward=lambda",
    ) as caught:
        Influence(seeded(Single), (X, Y), loss="cross_entropy", progress=False).fit()
    assert isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(InputError, match=r"batch of train \(\(4, 5\) float64, \(4,\) int64\)"):
        checked(mlp(), "cross_entropy", (normal(9, 5), Y))
    with pytest.raises(InputError, match=r"TypeError: .*forward"):
        checked(mlp(), "cross_entropy", (X, X, Y))


def test_a_token_without_an_embedding_is_named():
    model = seeded(lambda: nn.Sequential(nn.Embedding(4, 2), nn.Flatten(), nn.Linear(6, 3)))
    tokens = labels(9, 3, classes=4)
    tokens[8, 1] = 4
    with pytest.raises(InputError, match=r"forward pass failed on a batch of train .*IndexError: index out"):
        Influence(model, (tokens, Y), loss="cross_entropy", progress=False).fit()


def test_errors_of_a_forward_pass_on_queries_say_so():
    fitted = Influence(mlp(), (X, Y), loss="cross_entropy", damping=0.1, progress=False).fit()
    with pytest.raises(InputError, match=r"a batch of queries \(\(9, 5\) float64"):
        fitted.scores((normal(9, 5), Y))


def test_a_loss_that_takes_other_arguments_is_named():
    def weighted(f: Tensor, y: Tensor, w: Tensor) -> Tensor:
        return w * F.cross_entropy(f, y, reduction="none")

    with pytest.raises(InputError, match=r"loss 'weighted' failed .* TypeError: .*\(outputs, targets\)"):
        checked(mlp(), weighted)


@pytest.mark.parametrize("error", [NonFiniteError("mine"), MemoryError("mine"), KeyError("mine")])
def test_other_errors_of_a_forward_pass_are_left_as_they_are(error):
    def fail(z: Tensor) -> Tensor:
        raise error

    with pytest.raises(type(error), match="mine") as caught:
        checked(called(after=fail), "cross_entropy")
    assert caught.value is error


def test_an_allocation_failure_of_a_forward_pass_is_no_input_error():
    def fail(z: Tensor) -> Tensor:
        raise RuntimeError("not enough memory: you tried to allocate 9 bytes")

    with pytest.raises(RuntimeError, match="not enough memory") as caught:
        checked(called(after=fail), "cross_entropy")
    assert not isinstance(caught.value, InputError)


def test_inference_mode_is_refused_where_it_would_be_used():
    model = mlp()
    with (
        torch.inference_mode(),
        pytest.raises(InputError, match=r"torch\.inference_mode\(\) is on.*Leave it"),
    ):
        Objective(model, (X, Y), loss="cross_entropy")
