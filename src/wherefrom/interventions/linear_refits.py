"""A linear model refitted without sets of its training examples: Newton's method for many sets at once."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wherefrom.errors import UnsupportedError
from wherefrom.influence import Fit
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.head_matrices import HeadMatrices, why_no_head
from wherefrom.linalg import LinearOperator, batched_cg
from wherefrom.memory import fitting
from wherefrom.solvers import preconditioner_of

_NEWTON_STEPS, _CG_STEPS, _HALVINGS = 30, 100, 12
_CG_RTOL = 1e-4
# The decrement is a squared length: when a step is this much shorter than the first, none is left to take.
_SETTLED, _NOTHING = 1e-8, 1e-16
# Up to here a `c × c` curvature for each example costs less to keep than to apply from the logits each time.
_FEW_CLASSES = 4
# Arrays of (sets, examples, classes) alive at once, and their share of the memory budget.
_ARRAYS, _SHARE, _CEILING = 8, 0.25, 256 * 2**20


class LinearRefits(HeadMatrices):
    """`argmin s/n Σ_{i∉U} ℓ(z_i, θ) + R(θ) + (λ/2)‖θ−θ̂‖² − ∇J(θ̂)ᵀ(θ−θ̂)` for many sets `U`, when the outputs
    are affine in `θ` and the loss is convex.

    The last term makes `θ̂` the answer for the empty set whether or not the training had converged, so that
    what changes is the removal's doing. `R` counts to second order, `s` is `n/(n−|U|)` for `"mean"` and 1
    for `"sum"`. Products with features are matrix products over all sets; each set has a curvature of its
    own, that of what is left at its own parameters, solved by conjugate gradients that `C_λ⁻¹`
    preconditions.

    Args:
        fitted: the fitted influence function.
        reduction: `"mean"` or `"sum"`.

    Raises:
        UnsupportedError: a model that is not one linear map of one vector per example, a loss that is not
            convex, or targets that are no tensor.
    """

    def __init__(self, fitted: Fit, reduction: Reduction):
        reason = why_not_linear(fitted)
        if reason:
            raise UnsupportedError(reason)
        super().__init__(fitted)
        objective = self.objective = fitted.objective
        self.loss, self.n, self.reduction = objective.loss, objective.n, reduction
        features, outputs, self._targets = self.read(objective.examples)
        self.features, made = features.double(), outputs.double()
        self._shape = made.shape[1:]
        if self._targets.is_floating_point():
            self._targets = self._targets.double()
        self.classes = self._shape.numel()
        self.start = self.to_heads(objective.parameters.flat().double()[:, None])[0]
        self._fixed = made.reshape(self.n, -1) - self.features @ self.start.T  # of what is not studied
        self._penalty: LinearOperator = fitted.damping.add_to(objective.regulariser.hessian())
        self._preconditioner = preconditioner_of(fitted.prepared)
        first = self._output_gradients(self.start[None])
        self._gradient_at_start = self._pull_back(first)[0] / self.n

    def sets_at_once(self) -> int:
        """Sets that fit the memory budget together."""
        budget = min(self.objective.memory * _SHARE, _CEILING)
        return fitting(budget, 8 * _ARRAYS * self.n * self.classes)

    def refit(
        self, kept: Bool[Tensor, "m n"], theta: Float[Tensor, "m c d"]
    ) -> tuple[Float[Tensor, "m c d"], Bool[Tensor, " m"]]:
        """The optima without what is not `kept`, from the starting points `theta`; and which were reached."""
        theta = theta.clone()
        weights = self._weights(kept)
        active = torch.arange(len(kept), device=kept.device)
        first = torch.zeros(len(kept), dtype=torch.float64, device=kept.device)
        settled = torch.zeros(len(kept), dtype=torch.bool, device=kept.device)
        for step in range(_NEWTON_STEPS):
            at, w = theta[active], weights[active]
            gradient = self._gradient(at, w)
            delta = self._solve(at, w, gradient)
            decrement = (gradient * delta).sum((1, 2))
            if step == 0:
                first[active] = decrement
            theta[active] = self._descend(at, w, delta, decrement)
            done = (decrement <= _SETTLED * first[active]) | (decrement <= _NOTHING)
            settled[active[done]] = True
            active = active[~done]
            if not len(active):
                break
        return theta, settled & torch.isfinite(theta).all(2).all(1)

    def scores(
        self, kept: Bool[Tensor, "m n"], theta: Float[Tensor, "m c d"], measured: Float[Tensor, "m c d"]
    ) -> Float[Tensor, "m n"]:
        """`∇mᵀ C'⁻¹ g_i` of every training example with gradient and remaining curvature at `theta`.

        Args:
            kept: which examples are left.
            theta: the parameters without the others.
            measured: `∇m`.
        """
        solved = self._solve(theta, self._weights(kept), measured)
        return (self._push_forward(solved) * self._output_gradients(theta)).sum(2)

    def _weights(self, kept: Bool[Tensor, "m n"]) -> Float[Tensor, "m n 1"]:
        left = kept.double().sum(1, keepdim=True) if self.reduction == "mean" else float(self.n)
        return (kept.double() / left)[:, :, None]

    def _outputs(self, theta: Float[Tensor, "m c d"]) -> Float[Tensor, "m n c"]:
        return self._push_forward(theta) + self._fixed

    def _push_forward(self, theta: Float[Tensor, "m c d"]) -> Float[Tensor, "m n c"]:
        m, c, d = theta.shape
        return (self.features @ theta.reshape(m * c, d).T).reshape(self.n, m, c).transpose(0, 1)

    def _pull_back(self, cotangents: Float[Tensor, "m n c"]) -> Float[Tensor, "m c d"]:
        m, n, c = cotangents.shape
        columns = cotangents.permute(0, 2, 1).reshape(m * c, n)
        return (columns @ self.features).reshape(m, c, -1)

    def _rows(self, values: Float[Tensor, "m n c"]) -> tuple[Tensor, Tensor]:
        """All sets' outputs as one batch in the shape the loss knows, and their targets."""
        m = values.shape[0]
        targets = self._targets.expand(m, *self._targets.shape).reshape(-1, *self._targets.shape[1:])
        return values.reshape(m * self.n, *self._shape), targets

    def _output_gradients(self, theta: Float[Tensor, "m c d"]) -> Float[Tensor, "m n c"]:
        outputs, targets = self._rows(self._outputs(theta))
        return self.loss.output_gradient(outputs, targets).reshape(len(theta), self.n, self.classes)

    def _penalised(self, moved: Float[Tensor, "m c d"]) -> Float[Tensor, "m c d"]:
        """`(∇²R + λ) v`."""
        return self._applied(self._penalty, moved)

    def _applied(self, operator: LinearOperator, values: Float[Tensor, "m c d"]) -> Float[Tensor, "m c d"]:
        return self.to_heads(operator.matmat(self.to_columns(values).to(operator.dtype)).double())

    def _gradient(self, theta: Float[Tensor, "m c d"], w: Float[Tensor, "m n 1"]) -> Float[Tensor, "m c d"]:
        own = self._pull_back(w * self._output_gradients(theta))
        return own + self._penalised(theta - self.start) - self._gradient_at_start

    def _value(self, theta: Float[Tensor, "m c d"], w: Float[Tensor, "m n 1"]) -> Float[Tensor, " m"]:
        losses = self.loss(*self._rows(self._outputs(theta))).reshape(len(theta), self.n)
        moved = theta - self.start
        slope = 0.5 * self._penalised(moved) - self._gradient_at_start
        return (w[:, :, 0] * losses).sum(1) + (moved * slope).sum((1, 2))

    def _descend(
        self,
        theta: Float[Tensor, "m c d"],
        w: Float[Tensor, "m n 1"],
        delta: Float[Tensor, "m c d"],
        decrement: Float[Tensor, " m"],
    ) -> Float[Tensor, "m c d"]:
        """A Newton step, halved until the objective does not rise."""
        before = self._value(theta, w)
        allowed = 1e-12 * before.abs().clamp(min=1.0)
        length = torch.ones_like(before)
        for _ in range(_HALVINGS):
            after = self._value(theta - length[:, None, None] * delta, w)
            rises = ~(after <= before - 1e-4 * length * decrement + allowed)
            if not bool(rises.any()):
                break
            length = torch.where(rises, length / 2, length)
        return theta - length[:, None, None] * delta

    def _solve(
        self, theta: Float[Tensor, "m c d"], w: Float[Tensor, "m n 1"], rhs: Float[Tensor, "m c d"]
    ) -> Float[Tensor, "m c d"]:
        """`C'⁻¹ v`, each set with its own `C'`: preconditioned conjugate gradients, all sets in step."""
        rows, targets = self._rows(self._outputs(theta))
        blocks = self.loss.hessian_blocks(rows, targets) if self.classes <= _FEW_CLASSES else None

        def product(v: Float[Tensor, "m c d"]) -> Float[Tensor, "m c d"]:
            tangents, _ = self._rows(self._push_forward(v))
            if blocks is None:
                curved = self.loss.hessian_apply(tangents, rows, targets)
            else:
                columns = self.loss.to_blocks(tangents, rows, targets)[:, :, None, :]
                curved = self.loss.from_blocks((blocks * columns).sum(3), rows, targets)
            return self._pull_back(w * curved.reshape(len(v), self.n, self.classes)) + self._penalised(v)

        x, _ = batched_cg(product, self._preconditioned, rhs, rtol=_CG_RTOL, max_iterations=_CG_STEPS)
        return x

    def _preconditioned(self, r: Float[Tensor, "m c d"]) -> Float[Tensor, "m c d"]:
        return r if self._preconditioner is None else self._applied(self._preconditioner, r)


def why_not_linear(fitted: Fit) -> str:
    """Why the model cannot be refitted as a linear one; empty if it can."""
    objective = fitted.objective
    if not isinstance(objective.targets(objective.examples.batch([0])), Tensor):
        return "targets are no single tensor"
    return why_no_head(fitted)
