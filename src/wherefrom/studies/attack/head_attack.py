"""The iterated attack on a linear head over frozen features, for many queries at once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils._pytree import tree_map

from wherefrom.errors import ConvergenceError
from wherefrom.memory import fitting
from wherefrom.studies.attack.choose import choose_examples, feature_gradients, input_gradient
from wherefrom.studies.attack.features import FeatureReader
from wherefrom.studies.attack.head import EditedHead, HeadProblem, bytes_per_attack, empty_edits
from wherefrom.studies.attack.newton import has_optimum, refit, solve_damped
from wherefrom.studies.attack.outcome import AttackOutcome, Method, Record
from wherefrom.studies.attack.predictions import classes_of
from wherefrom.task import Examples

# n‖∇J‖/rms‖g‖ left over by every refit: this share of what removing one example changes.
TOLERANCE = 1e-3
# Only signs and directions are taken from the solution.
_SOLVE_RTOL = 1e-2
# Share of the memory budget for the outputs of all attacks of a block.
_MEMORY_SHARE = 0.25
# Attacks beyond this gain nothing by going together.
_MOST_ATTACKS = 128


class HeadAttack:
    """Attacks on one trained head; what they share is computed once.

    Args:
        problem: the head's training problem.
        reader: the layers in front of it.
        queries: what is attacked, and whatever else predictions are wanted of.

    Attributes:
        baseline: the optimum on the unedited training set, `(c, d)`: what predictions are compared with.
        features: of the queries, `(m, d)`.
        targets: of the queries.

    Raises:
        ConvergenceError: the head has no optimum to compare with.
    """

    def __init__(self, problem: HeadProblem, reader: FeatureReader, queries: Examples):
        self.problem = problem
        self.reader = reader
        self.features, _, self.targets = problem.read(queries)
        none = empty_edits(problem, 1)
        fit = refit(problem, problem.start[None], none, tolerance=TOLERANCE)
        if not bool(fit.converged[0] & has_optimum(problem, fit.heads, none)[0]):
            raise ConvergenceError(
                f"no optimum of the head on the unedited training set was found in {fit.steps} Newton steps "
                f"(gradient left over: {float(fit.distance[0]):.3g} times what removing one example "
                "changes). Separable classes without weight decay have none: give the weight_decay the "
                "model was trained with"
            )
        self.baseline = fit.heads[0]

    def predict(self, heads: Float[Tensor, "B c d"]) -> Int[Tensor, "B m"]:
        """Predicted classes of all queries under each head."""
        outputs = self.problem.outputs(heads, self.features)
        return classes_of(self.problem.loss, self.problem.shaped(outputs)).reshape(len(heads), -1)

    def attacks_at_once(self, edits: int) -> int:
        """How many attacks of so many edits go together, within memory."""
        most = min(_MOST_ATTACKS, 2 * self.reader.batch_size // edits)
        room = self.problem.objective.memory * _MEMORY_SHARE
        return fitting(room, bytes_per_attack(self.problem), most)

    def run(self, groups: Int[Tensor, "B g"], method: Method) -> list[AttackOutcome]:
        """One attack on each row of queries, all at once.

        Each step: edited inputs → features → refit heads → `s` → gradient in the features → gradient in the
        inputs → step → projection.
        """
        problem, budget = self.problem, method.budget
        heads = self.baseline.expand(len(groups), -1, -1).clone()
        before = self._measure(heads, groups, method)[1]
        solved = self._solve(heads, empty_edits(problem, len(groups)), groups, method, None)
        index = self._choose(heads, solved, method)
        original = self._originals(index, method)
        record = Record(index, original, before)
        latent = original.clone()
        active = torch.arange(len(groups), device=index.device)
        for step in range(method.steps + 1):
            own, start = index[active], original[active].flatten(0, 1)
            x = budget.emit(latent[active].flatten(0, 1), start).detach().requires_grad_()
            with torch.enable_grad():
                features = self.reader(own.reshape(-1), x)
            edited = EditedHead(own, features.detach().reshape(*own.shape, -1))
            fit = refit(problem, heads[active], edited, tolerance=TOLERANCE)
            values, classes = self._measure(fit.heads, groups[active], method)
            record.add(active, x.detach().reshape(original[active].shape), fit, values, classes, method.sign)
            going = ~record.done[active]
            if step == method.steps:
                break
            heads[active] = fit.heads
            solved[active] = self._solve(fit.heads, edited, groups[active], method, solved[active])
            slope = feature_gradients(problem, fit.heads, solved[active], edited.features, own)
            gradient = method.sign * input_gradient(features, x, slope.flatten(0, 1))
            here = latent[active]
            moved = budget.project(budget.ascend(here.flatten(0, 1), gradient, method.step_size), start)
            latent[active] = moved.reshape(here.shape)
            # In a corner that the gradient points into, further steps change nothing.
            going &= (moved.reshape(here.shape) != here).flatten(1).any(1)
            active = active[going]
            if not len(active):
                break
        return record.outcomes()

    def _originals(self, index: Int[Tensor, "B k"], method: Method) -> Float[Tensor, "B k *x"]:
        original = self.reader.inputs(index.reshape(-1))
        method.budget.check(original, index.reshape(-1).tolist())
        return original.reshape(*index.shape, *original.shape[1:])

    def _choose(self, heads: Tensor, solved: Tensor, method: Method) -> Int[Tensor, "B k"]:
        if method.fixed is not None:
            return method.fixed.expand(len(heads), -1)
        return choose_examples(
            self.problem,
            self.reader,
            heads,
            solved,
            edits=method.edits,
            budget=method.budget,
            candidates=method.candidates,
            shortlist=method.shortlist,
        )

    def _measure(
        self, heads: Float[Tensor, "B c d"], groups: Int[Tensor, "B g"], method: Method
    ) -> tuple[Float[Tensor, " B"], Int[Tensor, "B g"]]:
        """Mean of the measurement over each group, and its predicted classes."""
        outputs = self.problem.shaped(self.problem.outputs(heads, self.features[groups]))
        values = method.measurement.function(outputs, self._targets(groups)).reshape(groups.shape)
        return values.mean(1), classes_of(self.problem.loss, outputs).reshape(groups.shape)

    def _solve(
        self,
        heads: Float[Tensor, "B c d"],
        edited: EditedHead,
        groups: Int[Tensor, "B g"],
        method: Method,
        start: Float[Tensor, "B c d"] | None,
    ) -> Float[Tensor, "B c d"]:
        """`s_b = C_λ⁻¹ ∇m_b` at each head, with the curvature of each edited training set."""
        problem, features = self.problem, self.features[groups]
        leaf = problem.outputs(heads, features).detach().requires_grad_()
        with torch.enable_grad():
            values = method.measurement.function(problem.shaped(leaf), self._targets(groups))
            (slope,) = torch.autograd.grad(values.sum(), leaf)
        gradient = slope.transpose(1, 2) @ features / groups.shape[1]
        at = problem.evaluate(heads, edited)
        return solve_damped(problem, at, edited, gradient, start, rtol=_SOLVE_RTOL)[0]

    def _targets(self, groups: Int[Tensor, "B g"]) -> Any:
        return tree_map(lambda leaf: leaf[groups.reshape(-1)], self.targets)
