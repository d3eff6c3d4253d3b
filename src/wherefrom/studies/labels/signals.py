"""Signs of a wrong label, for every training example, from one fitted influence function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.influence import Attributor, Fit, SelfScores, output_spread
from wherefrom.influence.identity import require_same
from wherefrom.influence.kept import self_scores_of
from wherefrom.influence.scores import check_indices
from wherefrom.progress import progress_bar
from wherefrom.studies.labels.audit import LabelAudit
from wherefrom.studies.labels.classes import ClassLabels, class_labels
from wherefrom.studies.labels.examine import FoundSigns, examine, margin, relative_harm, validation_direction
from wherefrom.studies.labels.from_scores import signals_from_scores

LEFT_OUT = ("gradient", "exact")


def label_signals(
    attributor: Attributor,
    validation: Any = None,
    *,
    indices: Sequence[int] | Tensor | np.ndarray | None = None,
    self_scores: SelfScores | None = None,
    left_out: str = "gradient",
    class_names: Sequence[str] | None = None,
) -> LabelAudit:
    """How suspicious the label of each training example is, by several signs; larger is more suspicious.

    Args:
        attributor: of a classification; one that has scores alone, and is no influence function, gives fewer
            signs (see `signals_from_scores`).
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
        `harm`: predicted fall of `m` when the example is removed, `−sᵀ g_i / n`; of an attributor whose
            scores are similarities the mean of these over `−n`, an order without a size.
        `relative_harm`: harm over the root of self-influence (Barshan et al. 2020, "RelatIF"): how far the
            example's gradient points against the validation set's, however long it is.
        `relabel`: predicted fall of `m` when its label becomes the best other class,
            `max_c sᵀ (g_(x,c) − g_(x,y)) / n`.

    Raises:
        UnsupportedError: the loss has no classes, or several labels an example.
        InputError: `self_scores` of another fit, a label outside the classes, empty validation data, indices
            outside the training set, an unknown `left_out`, or an exact one with a solver that treats layers
            apart, class names that do not fit the classes.
    """
    if left_out not in LEFT_OUT:
        raise InputError(f"left_out={left_out!r}: expected 'gradient' or 'exact'")
    if not isinstance(attributor, Fit):
        if left_out == "exact":
            attributor.refuse("left_out='exact'", "Newton step without an example")
        if self_scores is not None:
            require_same("self_scores", self_scores.identity, {"fit": attributor.identity})
        names = _names(class_labels(attributor.objective), class_names)
        return signals_from_scores(attributor, validation, indices, self_scores, names)
    fitted = attributor
    if left_out == "exact" and fitted.prepared.approximates:
        raise InputError(
            f"left_out='exact': solver={fitted.solver.name!r} approximates the curvature itself, so that a "
            "whole Newton step with it is not exact. Use left_out='gradient', or solver=CG() or Exact()."
        )
    objective = fitted.objective
    classes = class_labels(objective)
    names = _names(classes, class_names)
    own, index = _self_influence(fitted, indices, self_scores)
    against = None if validation is None else validation_direction(fitted, classes, validation)
    spread = output_spread(fitted, index) if left_out == "exact" else None
    parts = []
    with progress_bar("label signals", len(index), enabled=fitted.options.progress) as bar:
        for where in torch.arange(len(index)).split(fitted.engine.batch_size):
            parts.append(
                examine(fitted, classes, index[where], own.values[where], against, _at(spread, where))
            )
            bar.advance(len(where))
    merged = FoundSigns.joined(parts)
    signals = {
        "loss": merged.loss,
        "margin": merged.margin,
        "left_out_loss": merged.left_out_loss,
        "left_out_margin": margin(merged.left_out_confidence, merged.given, classes.has_probabilities),
        "self_influence": own.values.double(),
    }
    errors = {"self_influence": own.error.double()}
    if merged.change is not None and merged.harm is not None and merged.error is not None:
        other = merged.change.scatter(1, merged.given[:, None], torch.inf)
        best = other.argmin(1, keepdim=True)
        signals |= {
            "harm": merged.harm,
            "relative_harm": relative_harm(merged.harm, own.values.double()),
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
            "left_out_approximate": fitted.engine.structure != "linear head" or fitted.prepared.approximates,
            "probabilities": classes.has_probabilities,
        },
        validation_disagreements=None if against is None else against.disagreements,
    )


def _self_influence(
    fitted: Fit,
    indices: Sequence[int] | Tensor | np.ndarray | None,
    self_scores: SelfScores | None,
) -> tuple[SelfScores, Int[Tensor, " k"]]:
    if self_scores is None:
        own = self_scores_of(fitted, indices)
        return own, own.index
    if indices is not None:
        raise InputError(
            "both indices and self_scores were given; self_scores say which examples are looked at"
        )
    require_same("self_scores", self_scores.identity, {"fit": fitted.identity})
    return self_scores, check_indices(self_scores.index, fitted.objective.n)


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
