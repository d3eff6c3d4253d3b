"""Signs of a wrong label for an attributor that gives scores and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Attributor, SelfScores
from wherefrom.influence.kept import scores_of, self_scores_of
from wherefrom.influence.scores import check_indices
from wherefrom.studies.labels.audit import LabelAudit
from wherefrom.studies.labels.classes import ClassLabels, class_labels, require_examples
from wherefrom.studies.labels.examine import margin, relative_harm
from wherefrom.task import Examples

# As `LabelAudit.settings["left_out"]`: the model's answer without an example is not known.
NOT_LEFT_OUT = "none"


def signals_from_scores(
    attributor: Attributor,
    validation: Any,
    indices: Sequence[int] | Tensor | np.ndarray | None,
    self_scores: SelfScores | None,
    names: Sequence[str] | None,
) -> LabelAudit:
    """`loss` and `margin` of the model as it is, `self_influence` where the attributor has it, and with a
    validation set `harm`, from the mean of its scores for the validation losses (an order alone where these
    are similarities), and `relative_harm`.

    What needs gradients is left out: predictions for a model without the example, and relabelling. The
    proposed label is the model's own class.

    Args:
        attributor: any.
        validation, indices, self_scores: as for `label_signals`.
        names: of the classes.
    """
    objective = attributor.objective
    classes = class_labels(objective)
    if self_scores is None:
        index = torch.arange(objective.n) if indices is None else check_indices(indices, objective.n)
        self_scores = _self_scores(attributor, index)
    else:
        index = check_indices(self_scores.index, objective.n)
    given, confidence, loss = _evaluated(attributor, classes, objective.examples, "train")
    given, confidence, loss = given[index], confidence[index], loss[index]
    signals = {"loss": loss, "margin": margin(confidence, given, classes.has_probabilities)}
    errors: dict[str, Tensor] = {}
    converged = True
    if self_scores is not None:
        signals["self_influence"] = self_scores.values.double()
        errors["self_influence"] = self_scores.error.double()
        converged = bool(self_scores.converged.all())
    count, disagreements = 0, None
    if validation is not None:
        examples = require_examples(objective, validation, "validation")
        labels, sure, _ = _evaluated(attributor, classes, examples, "validation")
        count, disagreements = len(labels), int((sure.argmax(1) != labels).sum())
        scores = scores_of(attributor, validation)
        signals["harm"] = -scores.values.double().mean(0)[index] / objective.n
        errors["harm"] = scores.error.double().mean(0)[index] / objective.n
        converged = converged and bool(scores.converged.all())
        if self_scores is not None:
            signals["relative_harm"] = relative_harm(signals["harm"], signals["self_influence"])
    return LabelAudit(
        index=index,
        given=given,
        predicted=confidence.argmax(1),
        signals=signals,
        errors=errors,
        confidence=confidence,
        left_out_confidence=confidence,
        relabel_change=None,
        class_names=tuple(classes.default_names if names is None else names),
        n=objective.n,
        converged=converged,
        settings={
            **attributor.settings(),
            "validation": count,
            "left_out": NOT_LEFT_OUT,
            "left_out_held": 0,
            "probabilities": classes.has_probabilities,
        },
        validation_disagreements=disagreements,
    )


def _self_scores(attributor: Attributor, index: Int[Tensor, " k"]) -> SelfScores | None:
    try:
        return self_scores_of(attributor, index)
    except UnsupportedError:  # said by the signs that are missing
        return None


def _evaluated(
    attributor: Attributor, classes: ClassLabels, examples: Examples, role: str
) -> tuple[Int[Tensor, " n"], Float[Tensor, "n c"], Float[Tensor, " n"]]:
    """Class number of the label, confidence and loss of every example."""
    objective = attributor.objective
    found = []
    for where, outputs, targets in objective.passes(examples):
        loss = objective.loss(outputs, targets).detach().double().cpu()
        given = classes.index(targets, torch.arange(where.start, where.stop), role)
        found.append((given, classes.confidence(outputs).cpu(), loss))
    given, confidence, losses = (torch.cat(column) for column in zip(*found))
    return given, confidence, losses
