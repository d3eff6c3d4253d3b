"""Many training sets that differ in a few examples, and the optimal linear head of each, by batched Newton
steps.

An attack that edits `k` of `n` training examples leaves the features of all others as they are. For `B`
attacks at once the objective, its gradient and its Hessian products are then two matrix products with the
shared features each, whatever `B` is, plus a correction for `B · k` rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.influence import Fit
from wherefrom.interventions.head_matrices import HeadMatrices, why_no_head
from wherefrom.solvers import preconditioner_of
from wherefrom.task.regulariser import WeightDecay


def head_obstacle(fitted: Fit) -> str | None:
    """Why the fast path does not apply to this task; `None` if it does."""
    if not isinstance(fitted.objective.regulariser, WeightDecay):
        return "the regulariser is a function of its own, not weight decay"
    return why_no_head(fitted) or None


def require_recipe(fitted: Fit, recipe: object) -> str | None:
    """`head_obstacle`, which is none or needs a recipe.

    Raises:
        InputError: there is none.
    """
    obstacle = head_obstacle(fitted)
    if obstacle is not None and recipe is None:
        raise InputError(
            f"recipe= is needed to retrain this model for an attack: {obstacle}. Pass recipe(train, seed) -> "
            "model, or study the last linear layer alone (parameters=) with its weight_decay"
        )
    return obstacle


@dataclass(frozen=True)
class EditedHead:
    """The examples that `B` attacks have exchanged, `k` each.

    Attributes:
        index: training indices, `(B, k)`.
        features: theirs after the edit, with a 1 for the bias, `(B, k, d)`.
    """

    index: Int[Tensor, "B k"]
    features: Float[Tensor, "B k d"]

    def rows(self, which: Tensor) -> EditedHead:
        """Those of some attacks."""
        return EditedHead(self.index[which], self.features[which])


@dataclass(frozen=True)
class Evaluation:
    """The objectives at `B` heads.

    Attributes:
        value, gradient: `J_b` and `∇J_b`.
        outputs: of all examples, the edited ones last; `(B, n + k, c)`.
        targets, weights: of these, flat; the originals of edited examples weigh nothing.
    """

    value: Float[Tensor, " B"]
    gradient: Float[Tensor, "B c d"]
    outputs: Float[Tensor, "B m c"]
    targets: Any
    weights: Float[Tensor, "B m"]


class HeadProblem(HeadMatrices):
    """`J_b(W) = (1/n) Σ_i ℓ(W ẽ_i) + ½ Σ_j α_j W_j²` with some `ẽ_i` exchanged in each `b`.

    Attributes:
        features: `ẽ` of the training set, `(n, d)`, a last column of ones if the bias is studied.
        start: `Ŵ`, `(c, d)`, the bias as last column.

    Raises:
        UnsupportedError: `head_obstacle` names the reason.
    """

    def __init__(self, fitted: Fit):
        reason = head_obstacle(fitted)
        if reason is not None:
            raise UnsupportedError(f"no linear head to attack: {reason}")
        super().__init__(fitted)
        self.objective = fitted.objective
        self.loss = fitted.objective.loss
        self.features, outputs, self.targets = self.read(fitted.objective.examples)
        self._shape = outputs.shape[1:]
        self.n = len(self.features)
        self.start = self.to_heads(fitted.objective.parameters.flat()[:, None])[0]
        frozen = None if self.has_bias else self.module.bias
        self._constant = None if frozen is None else frozen.detach().to(self.features)
        regulariser = fitted.objective.regulariser
        assert isinstance(regulariser, WeightDecay)
        self.decay = self.to_heads(regulariser.diagonal[:, None])[0]
        self.damping = fitted.damping.value
        self._typical = fitted.minimum.typical_gradient
        self._inverse = preconditioner_of(fitted.prepared)

    def outputs(
        self, heads: Float[Tensor, "B c d"], features: Float[Tensor, "*B m d"]
    ) -> Float[Tensor, "B m c"]:
        """`W_b ẽ`, plus a bias that is not studied, of features shared by all heads `(m, d)` or of each
        head's own `(B, m, d)`."""
        made = _applied(heads, features)
        return made if self._constant is None else made + self._constant

    def shaped(self, outputs: Float[Tensor, "B m c"]) -> Tensor:
        """Outputs of all heads as one batch, in the shape the loss takes them."""
        return outputs.reshape(-1, *self._shape)

    def evaluate(self, heads: Float[Tensor, "B c d"], edited: EditedHead) -> Evaluation:
        """Objectives and gradients. Cost: two products of `(n, d)` with `(d, B c)`."""
        count, k = edited.index.shape
        outputs = torch.cat([self.outputs(heads, self.features), self.outputs(heads, edited.features)], dim=1)
        weights = outputs.new_ones(count, self.n + k)
        weights.scatter_(1, edited.index, 0.0)
        targets = self._all_targets(edited.index)
        leaf = outputs.detach().requires_grad_()
        with torch.enable_grad():
            losses = self.loss(self.shaped(leaf), targets).reshape(count, -1)
            (slope,) = torch.autograd.grad((losses * weights).sum(), leaf)
        value = (losses.detach() * weights).sum(1) / self.n + 0.5 * (self.decay * heads.square()).sum((1, 2))
        gradient = self._pull(slope, edited) / self.n + self.decay * heads
        return Evaluation(value, gradient, outputs, targets, weights)

    def product(
        self, at: Evaluation, edited: EditedHead, vectors: Float[Tensor, "B c d"]
    ) -> Float[Tensor, "B c d"]:
        """`∇²J_b v_b`. Cost: as `evaluate`."""
        tangents = torch.cat([_applied(vectors, self.features), _applied(vectors, edited.features)], dim=1)
        curved = self.loss.hessian_apply(self.shaped(tangents)[None], self.shaped(at.outputs), at.targets)
        curved = curved[0].reshape(at.outputs.shape) * at.weights[:, :, None]
        return self._pull(curved, edited) / self.n + self.decay * vectors

    def precondition(self, vectors: Float[Tensor, "B c d"]) -> Float[Tensor, "B c d"]:
        """`M⁻¹ v_b` with the inverse curvature that was prepared at `Ŵ`."""
        if self._inverse is None:
            return vectors
        return self.to_heads(self._inverse.matmat(self.to_columns(vectors)))

    def distance(self, gradient: Float[Tensor, "B c d"]) -> Float[Tensor, " B"]:
        """`n ‖∇J_b‖ / rms‖g_i‖`: the gradient left over, in units of what removing one example changes."""
        return self.n * gradient.flatten(1).norm(dim=1) / max(self._typical, 1e-30)

    def _all_targets(self, index: Int[Tensor, "B k"]) -> Any:
        count = len(index)

        def join(leaf: Tensor) -> Tensor:
            both = torch.cat([leaf[None].expand(count, *leaf.shape), leaf[index]], dim=1)
            return both.reshape(-1, *leaf.shape[1:])

        return tree_map(join, self.targets)

    def targets_of(self, index: Int[Tensor, "*B k"]) -> Any:
        """Targets of training examples, as one batch."""
        return tree_map(lambda leaf: leaf[index.reshape(-1)], self.targets)

    def _pull(self, slope: Float[Tensor, "B m c"], edited: EditedHead) -> Float[Tensor, "B c d"]:
        """`Σ_i u_i ẽ_iᵀ` for each attack."""
        count, _, classes = slope.shape
        shared = slope[:, : self.n].transpose(0, 1).reshape(self.n, count * classes)
        whole = (shared.T @ self.features).reshape(count, classes, -1)
        return whole + slope[:, self.n :].transpose(1, 2) @ edited.features


def _applied(heads: Float[Tensor, "B c d"], features: Float[Tensor, "*B m d"]) -> Float[Tensor, "B m c"]:
    if features.ndim == 3:
        return features @ heads.transpose(1, 2)
    count, classes, width = heads.shape
    return (features @ heads.reshape(-1, width).T).reshape(-1, count, classes).transpose(0, 1)


def bytes_per_attack(problem: HeadProblem) -> int:
    """Working memory of one attack: a few copies of all outputs and targets, and a few heads."""
    classes, width = problem.start.shape
    leaves = tree_flatten(problem.targets)[0]
    targets = sum(leaf[:1].numel() * leaf.element_size() for leaf in leaves)
    numbers = 8 * problem.n * classes + 12 * classes * width
    return numbers * problem.features.element_size() + problem.n * targets


def empty_edits(problem: HeadProblem, count: int) -> EditedHead:
    """`count` attacks that have edited nothing yet."""
    return EditedHead(
        torch.zeros(count, 0, dtype=torch.long, device=problem.features.device),
        problem.features.new_zeros(count, 0, problem.features.shape[1]),
    )


@dataclass(frozen=True)
class Refit:
    """Heads after Newton's method.

    Attributes:
        heads: `(B, c, d)`.
        converged: whether each reached its optimum.
        distance: `n ‖∇J_b‖ / rms‖g_i‖` left over.
        steps: Newton steps of the slowest.
    """

    heads: Float[Tensor, "B c d"]
    converged: Bool[Tensor, " B"]
    distance: Float[Tensor, " B"]
    steps: int
