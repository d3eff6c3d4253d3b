"""Class means of the gradients, and how much of the top eigenvectors they explain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.gradients import GradientEngine
from wherefrom.linalg import Eigenpairs
from wherefrom.losses import CrossEntropy

# Directions of the span with less than this share of the largest singular value are rounding.
_RANK_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ClassMeans:
    """What class means say of the leading eigenvectors of a Gauss-Newton matrix.

    `δ_{c,c'}` is the mean, over the examples of class `c`, of the scaled gradient `√p_{c'} Jᵀ(p − e_{c'})`
    that label `c'` would give: the Gauss-Newton matrix of cross-entropy is the sum of the outer products of
    these gradients, and its outliers come from the means (Papyan 2020, "Traces of class/cross-class structure
    pervade deep learning spectra", §4).

    Attributes:
        classes: `C`.
        by_class: for each eigenvector, `‖P v‖²` with `P` onto the `C` class means `δ_c` (means over
            `c' ≠ c`).
        by_pair: the same for all `C²` means `δ_{c,c'}`.
        dimension_class, dimension_pair: dimensions of both spans.
        chance_class, chance_pair: what a random direction would give: dimension / `p`.
    """

    classes: int
    by_class: Float[Tensor, " k"]
    by_pair: Float[Tensor, " k"]
    dimension_class: int
    dimension_pair: int
    chance_class: float
    chance_pair: float

    @property
    def explained_by_class(self) -> float:
        """Of the whole top subspace: the mean over its eigenvectors."""
        return float(self.by_class.mean())

    @property
    def explained_by_pair(self) -> float:
        return float(self.by_pair.mean())


def class_means(engine: GradientEngine, labels: Int[Tensor, " n"], top: Eigenpairs) -> ClassMeans | str:
    """The share of each eigenvector that class means explain, or why that does not apply.

    Args:
        engine: of the objective; its loss must be cross-entropy with one row of class scores per example.
        labels: the class of every training example.
        top: leading eigenpairs of the curvature.

    Cost: one backward pass per pair of classes and batch, and `16 C² p` bytes.
    """
    if not isinstance(engine.objective.loss, CrossEntropy):
        return f"class means are defined for cross-entropy, and the loss is {engine.objective.loss.name!r}"
    objective = engine.objective
    _, first = next(engine.training_passes())
    if first.outputs.ndim != 2:
        return "the model does not give one row of class scores per example"
    classes = first.outputs.shape[1]
    needed = 2 * 8 * classes**2 * objective.p
    if needed > objective.memory:
        return (
            f"the means of {classes}² pairs of classes need {needed / 2**30:.3g} GiB, more than the memory "
            "budget; raise memory= to have them"
        )
    pairs = _pair_means(engine, labels, classes)
    others = ~torch.eye(classes, dtype=torch.bool, device=pairs.device)
    centres = (pairs * others[:, :, None]).sum(1) / max(1, classes - 1)
    vectors = top.vectors.double()
    by_class, rank_class = _explained(centres, vectors)
    by_pair, rank_pair = _explained(pairs.flatten(0, 1), vectors)
    p = vectors.shape[0]
    return ClassMeans(classes, by_class, by_pair, rank_class, rank_pair, rank_class / p, rank_pair / p)


def _pair_means(engine: GradientEngine, labels: Int[Tensor, " n"], classes: int) -> Float[Tensor, "c c p"]:
    """`δ_{c,c'}` in float64."""
    objective = engine.objective
    labels = labels.to(objective.device)
    total = torch.zeros(classes, classes, objective.p, dtype=torch.float64, device=objective.device)
    for where, at in engine.training_passes():
        p = torch.softmax(at.outputs, dim=1)
        members = torch.nn.functional.one_hot(labels[where], classes).to(p)
        roots = p.sqrt()[:, :, None] * (p[:, None, :] - torch.eye(classes).to(p))  # b c' o
        for true in range(classes):
            if bool(members[:, true].any()):
                cotangents = (members[:, true, None, None] * roots).transpose(0, 1)
                for part in torch.arange(classes).split(engine.columns):
                    total[true, part] += at.vjp(cotangents[part]).T.double()
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return total / counts[:, None, None]


def _explained(span: Float[Tensor, "m p"], vectors: Float[Tensor, "p k"]) -> tuple[Float[Tensor, " k"], int]:
    """`‖P v‖²` for orthonormal columns `v`, and the dimension of the span."""
    gram = span @ span.T
    values, bases = torch.linalg.eigh(gram)
    kept = values > _RANK_TOLERANCE**2 * values[-1].clamp(min=1e-300)
    coordinates = (bases[:, kept] / values[kept].sqrt()).T @ (span @ vectors)
    return coordinates.pow(2).sum(0).clamp(max=1.0), int(kept.sum())
