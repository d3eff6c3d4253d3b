"""A model that returns its own loss: the named loss is that one, or is refused with both numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.problems import labels, normal, seeded
from wherefrom import CrossEntropy, Influence, SquaredError
from wherefrom.errors import InputError

N, T, V = 9, 5, 6
IDS = labels(N, T, classes=V)


class Causal(nn.Module):
    """Each position predicts from those before it; labels are shifted inside."""

    def __init__(self, shift: bool = True, smoothing: float = 0.0, form: str = "object") -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(V, 4), nn.Linear(4, V)
        self.shift, self.smoothing, self.form = shift, smoothing, form

    def forward(self, input_ids: Tensor, labels: Tensor | None = None):
        logits = self.head(torch.tanh(self.embed(input_ids).cumsum(1)))
        loss = None
        if labels is not None:
            made, asked = (logits[:, :-1], labels[:, 1:]) if self.shift else (logits, labels)
            loss = F.cross_entropy(
                made.flatten(0, 1), asked.flatten(), label_smoothing=self.smoothing, ignore_index=-100
            )
        if self.form == "tuple":
            return logits if loss is None else (loss, logits)
        if self.form == "dict":
            return {"loss": loss, "logits": logits}
        return SimpleNamespace(logits=logits, loss=loss)


def own_gradients(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """Of the model's own loss of every example, by plain autograd."""
    rows = []
    for i in range(N):
        made = model(**{key: value[i : i + 1] for key, value in data.items()})
        loss = made[0] if isinstance(made, tuple) else made["loss"] if isinstance(made, dict) else made.loss
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    return torch.stack(rows)


def scores(model: nn.Module, data, loss="cross_entropy", **options) -> Tensor:
    return (
        Influence(model, data, loss=loss, solver="identity", progress=False, **options)
        .fit()
        .scores(data)
        .values
    )


@pytest.mark.parametrize("form", ["object", "tuple", "dict"])
def test_shifted_labels_are_refused_and_the_advice_gives_the_models_own_loss(form):
    model, targets = seeded(lambda: Causal(form=form)), IDS.clone()
    targets[2, 3:] = -100
    data = {"input_ids": IDS, "labels": targets}
    with pytest.raises(InputError, match=r"own loss of train example \d is .*shifts inside.*pass forward="):
        scores(model, data)

    def logits(made):
        return made if form == "tuple" else made["logits"] if form == "dict" else made.logits

    found = scores(
        model,
        data,
        forward=lambda model, batch: logits(model(**{k: v for k, v in batch.items() if k != "labels"}))[
            :, :-1
        ],
        target=lambda batch: batch["labels"][:, 1:],
    )
    g = own_gradients(model, data)
    torch.testing.assert_close(found, g @ g.T, rtol=1e-9, atol=1e-12)


def test_labels_in_a_tuple_are_asked_too():
    with pytest.raises(InputError, match=r"shifts inside.*batch\[-1\]\[:, 1:\]"):
        scores(seeded(Causal), (IDS, IDS))


def test_a_forward_that_forgets_to_shift_is_found_and_target_says_that_it_is_meant():
    model, data = seeded(Causal), {"input_ids": IDS, "labels": IDS}

    def forward(model, batch):
        return model(batch["input_ids"]).logits

    with pytest.raises(InputError, match="shifts inside"):
        scores(model, data, forward=forward)
    scores(model, data, forward=forward, target=lambda batch: batch["labels"])


def test_a_model_that_does_not_shift_gives_its_own_gradients():
    model, data = seeded(lambda: Causal(shift=False)), {"input_ids": IDS, "labels": IDS}
    g = own_gradients(model, data)
    torch.testing.assert_close(scores(model, data), g @ g.T, rtol=1e-9, atol=1e-12)


def test_label_smoothing_inside_is_refused_and_named_is_right():
    model, data = seeded(lambda: Causal(shift=False, smoothing=0.1)), {"input_ids": IDS, "labels": IDS}
    with pytest.raises(InputError, match=r"but loss='cross_entropy' gives .*Label smoothing, class weights"):
        scores(model, data)
    g = own_gradients(model, data)
    found = scores(model, data, CrossEntropy(label_smoothing=0.1))
    torch.testing.assert_close(found, g @ g.T, rtol=1e-9, atol=1e-12)
    # Said to be trained with another loss than its own.
    scores(model, data, forward=lambda model, batch: model(batch["input_ids"]).logits)


class Outer(nn.Module):
    """Hands everything down."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Causal()

    def forward(self, **given):
        return self.inner(**given)


class LogitsFirst(Causal):
    """`(logits, loss)`, the labels under another name."""

    def forward(self, idx: Tensor, targets: Tensor | None = None):
        made = super().forward(idx, targets)
        return made.logits if targets is None else (made.logits, made.loss)


@pytest.mark.parametrize(
    ("build", "data"),
    [
        (Outer, {"input_ids": IDS, "labels": IDS}),
        (Causal, {"input_ids": IDS, "label": IDS}),
        (LogitsFirst, {"idx": IDS, "y": IDS}),
        (LogitsFirst, (IDS, IDS)),
    ],
)
def test_the_loss_is_found_behind_wrappers_and_other_names(build, data):
    with pytest.raises(InputError, match="shifts inside"):
        scores(seeded(build), data)


class Regression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor | None = None):
        made = self.layer(x)
        return SimpleNamespace(
            logits=made, loss=None if labels is None else F.mse_loss(made.squeeze(-1), labels)
        )


def test_another_scale_of_the_loss_is_named():
    model, data = seeded(Regression), {"x": normal(N, 4), "labels": normal(N, seed=3)}
    with pytest.raises(InputError, match=r"It is 0\.5 times that everywhere: the scale"):
        scores(model, data, "squared_error")
    g = own_gradients(model, data)
    torch.testing.assert_close(scores(model, data, SquaredError(scale=1.0)), g @ g.T, rtol=1e-9, atol=1e-12)


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, y: Tensor | None = None):
        z = self.layer(x)
        if y is None:
            return {"logits": z}
        return {
            "logits": z,
            "loss": (F.cross_entropy(z, y, reduction="none") * torch.tensor([1.0, 2, 1])[y]).mean(),
        }


def test_class_weights_inside_are_refused_under_another_name_of_the_labels():
    model, data = seeded(Weighted), {"x": normal(N, 4), "y": labels(N)}
    with pytest.raises(InputError, match="class weights"):
        scores(model, data)
    g = own_gradients(model, data)
    found = scores(model, data, CrossEntropy(class_weights=[1.0, 2.0, 1.0]))
    torch.testing.assert_close(found, g @ g.T, rtol=1e-9, atol=1e-12)


class TakesNoLabels(Weighted):
    """Labels it cannot use: no loss of its own to compare with."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            raise RuntimeError("labels of another form")
        return self.layer(x)


def test_a_model_without_a_loss_of_its_own_is_not_asked():
    scores(seeded(TakesNoLabels), {"x": normal(N, 4), "labels": labels(N)})
