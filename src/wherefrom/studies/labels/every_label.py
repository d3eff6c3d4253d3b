"""What giving any training example any other label does to each query, all of them in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.influence import Fit, Measurement, resolve_measurement
from wherefrom.progress import progress_bar
from wherefrom.studies.labels.classes import class_labels
from wherefrom.studies.labels.examine import inner


@dataclass(frozen=True)
class RelabelScores:
    """Predicted change of each query's measurement when one training example gets another label.

    Attributes:
        values: `(q, n, c)`: `m_q(θ̂ with label c for i) − m_q(θ̂) ≈ −∇m_qᵀ C_λ⁻¹ (g_{(x_i,c)} − g_i)/n`, to
            first order; zero for the label it has.
        given: class number of every training example, `(n,)`.
        names: of the classes, as the targets write them.
        measurement: name of `m`.
    """

    values: Float[Tensor, "q n c"]
    given: Int[Tensor, " n"]
    names: tuple[str, ...]
    measurement: str

    def largest(self, query: int, k: int = 5, *, raising: bool = False) -> list[tuple[int, str, float]]:
        """`(training index, label, predicted change)` of the `k` relabellings that lower the query's
        measurement most, or raise it most.

        Raises:
            InputError: a query that does not exist, or `k` below 1.
        """
        query = whole("query", query, 0, len(self.values) - 1)
        k = whole("k", k, 1)
        flat = self.values[query].flatten()
        order = flat.argsort(descending=raising, stable=True)[:k]
        count = len(self.names)
        return [(int(at) // count, self.names[int(at) % count], float(flat[at])) for at in order]


def relabel_scores(
    fitted: Fit,
    queries: Any,
    measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
) -> RelabelScores:
    """Every relabelling of every training example at once.

    A label enters the gradient through the outputs alone, `g_{(x,c)} − g_{(x,y)} = Jᵀ(u_c − u_y)`, so one
    product `J C_λ⁻¹∇m` serves all classes. Koh & Liang (2017), §2.2.

    Args:
        fitted: the fitted influence function of a classifier.
        queries, measurement: what is measured.

    Raises:
        UnsupportedError: a loss without classes.
        InputError: bad queries, or a training target that is no class.
    """
    objective, engine = fitted.objective, fitted.engine
    classes = class_labels(objective)
    measured = resolve_measurement(measurement, objective.loss)
    gradients = fitted.measure_gradients(queries, measured)
    blocks: list[Tensor] = []
    given: list[Tensor] = []
    with progress_bar("relabelling", len(gradients), enabled=fitted.options.progress) as bar:
        for block in fitted.pairing.blocks(gradients, errors=False):
            parts, given = [], []
            for where, at in engine.training_passes():
                numbers = torch.arange(where.start, where.stop)
                given.append(classes.index(at.targets, numbers, "train"))
                own = at.output_gradient(objective.loss)
                columns = block.solution.x.split(engine.columns, dim=1)
                tangents = torch.cat([at.jvp(part) for part in columns])
                changes = [
                    inner(tangents, own - classes.output_gradient(at.outputs, at.targets, number))
                    for number in range(classes.count)
                ]
                parts.append(torch.stack(changes, dim=-1).cpu() / objective.n)
            blocks.append(torch.cat(parts, dim=1))
            bar.advance(block.where.stop - block.where.start)
    return RelabelScores(torch.cat(blocks), torch.cat(given), classes.default_names, measured.name)
