"""Signs of a wrong label, for every training example, from one fitted influence function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence.errors import InputError
from whence.gradients import ExampleGradients
from whence.influence import FittedInfluence, SelfScores, compute_self_scores
from whence.influence.scores import check_indices
from whence.labels.audit import LabelAudit
from whence.labels.classes import ClassLabels, class_labels, require_examples
from whence.labels.left_out import left_out_along_gradient, left_out_exactly, output_spread
from whence.progress import progress_bar
from whence.task import check_examples

LEFT_OUT = ("gradient", "exact")


def label_signals(
    fitted: FittedInfluence,
    validation: Any = None,
    *,
    indices: Sequence[int] | Tensor | np.ndarray | None = None,
    self_scores: SelfScores | None = None,
    left_out: Literal["gradient", "exact"] = "gradient",
    class_names: Sequence[str] | None = None,
) -> LabelAudit:
    """How suspicious the label of each training example is, by several signs; larger is more suspicious.

    Args:
        fitted: of a classification with any solver.
        validation: examples the model was not trained on, whose labels are trusted more, in any form the
            training data may have. Without them `harm` and `relabel` are left out and proposals are the
            model's own.
        indices: training examples to look at; all by default. Each costs one solve (for its self-influence).
        self_scores: if computed already; then they say which examples are looked at.
        left_out: how the model's answer without an example is predicted: `"gradient"` from its self-influence
            at no further cost, `"exact"` by a whole Newton step at one solve per example and output.
        class_names: one name per class, for tables.

    With `s = C_λ⁻¹ ∇m`, `m` the mean validation loss, and `g_(x,c)` the gradient at label `c`:
        `loss`, `margin`: of the model as it is; the margin is `(1 + max_{c≠y} p_c − p_y) / 2`, in [0, 1].
        `left_out_loss`, `left_out_margin`: of the model predicted for training without the example.
        `self_influence`: `g_iᵀ C_λ⁻¹ g_i` (Koh & Liang 2017, §5.4).
        `harm`: predicted fall of `m` when the example is removed, `−sᵀ g_i / n`.
        `relative_harm`: harm over the root of self-influence (Barshan et al. 2020, "RelatIF"): how far the
            example's gradient points against the validation set's, however long it is.
        `relabel`: predicted fall of `m` when its label becomes the best other class,
            `max_c sᵀ (g_(x,c) − g_(x,y)) / n`.

    Raises:
        UnsupportedError: the loss has no classes, or several labels an example.
        InputError: a label outside the classes, empty validation data, indices outside the training set, an
            unknown `left_out`, class names that do not fit the classes.
    """
    if left_out not in LEFT_OUT:
        raise InputError(f"left_out={left_out!r}: expected 'gradient' or 'exact'")
    objective = fitted.objective
    classes = class_labels(objective)
    names = _names(classes, class_names)
    own, index = _self_influence(fitted, indices, self_scores)
    against = None if validation is None else _validation_direction(fitted, classes, validation)
    spread = output_spread(fitted, index) if left_out == "exact" else None
    parts = []
    with progress_bar("label signals", len(index), enabled=fitted.options.progress) as bar:
        for where in torch.arange(len(index)).split(fitted.engine.batch_size):
            parts.append(
                _signals(fitted, classes, index[where], own.values[where], against, _at(spread, where))
            )
            bar.advance(len(where))
    merged = _Part.joined(parts)
    signals = {
        "loss": merged.loss,
        "margin": merged.margin,
        "left_out_loss": merged.left_out_loss,
        "left_out_margin": _margin(merged.left_out_confidence, merged.given, classes.has_probabilities),
        "self_influence": own.values.double(),
    }
    errors = {"self_influence": own.estimate.double()}
    if merged.change is not None and merged.harm is not None and merged.error is not None:
        other = merged.change.scatter(1, merged.given[:, None], torch.inf)
        best = other.argmin(1, keepdim=True)
        signals |= {
            "harm": merged.harm,
            "relative_harm": _relative(merged.harm, own.values.double()),
            "relabel": -other.gather(1, best)[:, 0],
        }
        errors |= {"harm": merged.error[:, -1], "relabel": merged.error.gather(1, best)[:, 0]}
    return LabelAudit(
        index=index,
        given=merged.given,
        predicted=merged.confidence.argmax(1),
        signals=signals,
        errors=errors,
        confidence=merged.confidence,
        left_out_confidence=merged.left_out_confidence,
        relabel_change=merged.change,
        class_names=names,
        n=objective.n,
        converged=bool(own.converged.all()) and (against is None or against.converged),
        settings={
            **fitted.settings(),
            "validation": 0 if against is None else against.count,
            "left_out": left_out,
            "left_out_held": merged.held,
            "probabilities": classes.has_probabilities,
        },
    )


@dataclass(frozen=True)
class _Direction:
    """`C_λ⁻¹ ∇m` for the mean validation loss, and the directions of its error, as columns."""

    columns: Float[Tensor, "p k"]
    count: int
    converged: bool


@dataclass(frozen=True)
class _Part:
    """What is found for some of the examples; `error` has a column per class and one for the harm."""

    given: Int[Tensor, " b"]
    confidence: Float[Tensor, "b c"]
    loss: Float[Tensor, " b"]
    margin: Float[Tensor, " b"]
    left_out_loss: Float[Tensor, " b"]
    left_out_confidence: Float[Tensor, "b c"]
    held: int
    change: Float[Tensor, "b c"] | None
    harm: Float[Tensor, " b"] | None
    error: Float[Tensor, "b columns"] | None

    @classmethod
    def joined(cls, parts: list[_Part]) -> _Part:
        def join(values: list[Any]) -> Any:
            if values[0] is None:
                return None
            return torch.cat(values) if isinstance(values[0], Tensor) else sum(values)

        return cls(**{name: join([getattr(part, name) for part in parts]) for name in cls.__annotations__})


def _signals(
    fitted: FittedInfluence,
    classes: ClassLabels,
    index: Int[Tensor, " b"],
    self_influence: Float[Tensor, " b"],
    against: _Direction | None,
    spread: Float[Tensor, "b o o"] | None,
) -> _Part:
    objective = fitted.objective
    at = fitted.engine.linearise(objective.examples, index.to(objective.device))
    given = classes.index(at.targets, index, "train")
    own = at.output_gradient(objective.loss)
    loss = objective.loss
    moved = (
        left_out_along_gradient(loss, at.outputs, at.targets, own, self_influence, objective.n)
        if spread is None
        else left_out_exactly(loss, at.outputs, at.targets, own, spread)
    )
    confidence = classes.confidence(at.outputs).cpu()
    change = harm = error = None
    if against is not None:
        tangents = at.jvp(against.columns).double()
        inner = [_inner(tangents, own)]
        for number in range(classes.count):
            as_if = classes.output_gradient(at.outputs, at.targets, number)
            inner.append(_inner(tangents, as_if - own))
        products = torch.stack(inner[1:] + inner[:1], dim=-1).cpu() / objective.n  # (k, b, c + 1)
        change, harm = -products[0, :, :-1], -products[0, :, -1]
        error = products[1:].norm(dim=0) if len(products) > 1 else torch.full_like(products[0], torch.nan)
    return _Part(
        given=given,
        confidence=confidence,
        loss=loss(at.outputs, at.targets).detach().double().cpu(),
        margin=_margin(confidence, given, classes.has_probabilities),
        left_out_loss=loss(moved.outputs, at.targets.cpu()),
        left_out_confidence=classes.confidence(moved.outputs),
        held=moved.held,
        change=change,
        harm=harm,
        error=error,
    )


def _validation_direction(fitted: FittedInfluence, classes: ClassLabels, validation: Any) -> _Direction:
    """`C_λ⁻¹` of the mean validation gradient: one solve."""
    objective = fitted.objective
    examples = require_examples(objective, validation, "validation")
    check_examples(objective, examples, batch_size=max(fitted.engine.batch_size, 256), progress=False)
    for where, batch in examples.batches(fitted.engine.batch_size):
        classes.index(objective.targets(batch), torch.arange(where.start, where.stop), "validation")
    gradient = ExampleGradients(fitted.engine, examples, objective.loss).mean().to(objective.dtype)
    solution = fitted.solve(gradient[:, None])
    columns = torch.cat([solution.x, solution.error_directions[:, :, 0].T], dim=1)
    return _Direction(columns, len(examples), bool(solution.converged.all()))


def _self_influence(
    fitted: FittedInfluence,
    indices: Sequence[int] | Tensor | np.ndarray | None,
    self_scores: SelfScores | None,
) -> tuple[SelfScores, Int[Tensor, " k"]]:
    if self_scores is None:
        own = compute_self_scores(fitted, indices)
        return own, own.index
    if indices is not None:
        raise InputError(
            "both indices and self_scores were given; self_scores say which examples are looked at"
        )
    return self_scores, check_indices(self_scores.index, fitted.objective.n)


def _margin(
    confidence: Float[Tensor, "b c"], given: Int[Tensor, " b"], probabilities: bool
) -> Float[Tensor, " b"]:
    """How far the likeliest other class is ahead of the given one; scaled to [0, 1] for probabilities."""
    own = confidence.gather(1, given[:, None])[:, 0]
    other = confidence.scatter(1, given[:, None], -torch.inf).max(1).values
    return (1.0 + other - own) / 2 if probabilities else other - own


def _relative(harm: Float[Tensor, " k"], self_influence: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """Harm over the root of self-influence; zero for an example without a gradient, which does no harm."""
    moves = self_influence > 0
    return torch.where(moves, harm / torch.where(moves, self_influence, 1.0).sqrt(), 0.0)


def _inner(tangents: Tensor, cotangent: Tensor) -> Float[Tensor, "k b"]:
    """`Σ_outputs t u` per example, for each of the tangents."""
    product = tangents * cotangent.double()
    return product.flatten(2).sum(2) if product.ndim > 2 else product


def _at(values: Tensor | None, where: Tensor) -> Tensor | None:
    return None if values is None else values[where]


def _names(classes: ClassLabels, class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is None:
        return classes.default_names
    if len(class_names) != classes.count:
        raise InputError(
            f"class_names has {len(class_names)} names and the model {classes.count} classes "
            f"({classes.default_names[0]} … {classes.default_names[-1]}); expected one name per class"
        )
    return tuple(map(str, class_names))
