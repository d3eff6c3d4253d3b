"""LiSSA: a stochastic Neumann series on mini-batch curvature."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import number, whole
from wherefrom.errors import DivergenceError, InputError
from wherefrom.linalg import LinearOperator, lanczos_spectrum
from wherefrom.progress import progress_bar
from wherefrom.solvers.base import PreparedSolver, Solver
from wherefrom.solvers.lissa_errors import judge, missing_part, predict
from wherefrom.solvers.repair import measured
from wherefrom.solvers.solution import Solution, solution_from

# Mini-batches whose largest eigenvalue is measured to choose the scale, and the margin above the largest
# seen.
_PROBED_BATCHES = 8
_SCALE_MARGIN = 1.25
# How far the noise of mini-batches may carry an iterate beyond what a convergent series can reach; 0.9 of
# that was the most that was seen of runs that converge.
_GROWTH = 10.0
# A residual so many times the right-hand side is no answer: slow divergence that ended in time, or noise as
# large.
_USELESS = 10.0
# A share of the answer that, missing, leaves nothing worth the steps.
_HOPELESS = 0.9
_CHECK_EVERY = 50


class LiSSA(Solver):
    """`s_j = v + s_{j−1} − C̃_λ s_{j−1} / σ` with a fresh mini-batch in `C̃` each step; the result is
    `s_J / σ`.

    Args:
        scale: `σ`, above the largest eigenvalue of every mini-batch's `C̃_λ`. `None`: measured on a few
            mini-batches.
        depth: `J`, steps. `None`: enough for a bias of `bias`, from the smallest eigenvalue.
        repeats: independent runs that are averaged; at least 2 are needed for a standard error.
        batch_size: examples per mini-batch.
        bias: relative bias `(1 − λ_min/σ)^J` that an automatic depth aims at, in the worst direction. Less
            than the noise of the repeats is enough: further steps are better spent on another repeat.
        max_depth: limit of an automatic depth; reaching it is reported as not converged.

    The noise is known from the spread of the repeats. The bias is at most `(1 − λ_min/σ)^J` of the answer
    where that is proven and as small as asked for; otherwise it is measured: the averaged answer's error is
    `C_λ⁻¹` of its residual, and a few steps of conjugate gradients solve for it. An answer has converged if
    it has no bias above the noise and above `bias`, and errs by a quarter of itself at most.

    Damping is part of the operator, in the units of the curvature: it is *not* multiplied by the scale,
    unlike in implementations that add it after scaling.

    A series that diverges is refused with a `DivergenceError`: an iterate larger than a convergent series can
    reach, or an answer whose residual is ten times the right-hand side. One that would leave out nine tenths
    of the answer, for want of steps, is refused with an `InputError` before any is taken.

    Cost: `repeats · depth` mini-batch products per column; where the bias has to be measured 3 to 20 full
    ones, no more than a quarter of that.

    Source: Agarwal, Bullins & Hazan 2017; Koh & Liang 2017, §3; Golub & Meurant 1994, *Matrices, moments and
    quadrature*.
    """

    name = "lissa"

    def __init__(
        self,
        scale: float | None = None,
        depth: int | None = None,
        repeats: int = 6,
        batch_size: int = 64,
        bias: float = 1e-2,
        max_depth: int = 20_000,
    ):
        if scale is not None:
            words = "a positive number above the largest eigenvalue, or None"
            number("scale", scale, above=0, expected=words)
        if depth is not None:
            whole("depth", depth, 1, expected="a whole number of at least 1 step, or None")
        for name, value in (("repeats", repeats), ("batch_size", batch_size), ("max_depth", max_depth)):
            whole(name, value, 1)
        number("bias", bias, above=0, below=1)
        self.scale = scale
        self.depth = depth
        self.repeats = repeats
        self.batch_size = batch_size
        self.bias = bias
        self.max_depth = max_depth

    def without_damping(self, operator: LinearOperator) -> Literal["products"]:
        return "products"

    def settings(self) -> dict[str, Any]:
        return {
            "solver": self.name,
            "scale": self.scale,
            "depth": self.depth,
            "repeats": self.repeats,
            "batch_size": self.batch_size,
            "bias": self.bias,
            "max_depth": self.max_depth,
        }

    def prepare(self, operator: LinearOperator, *, seed: int = 0) -> PreparedSolver:
        if operator.n_examples is None:
            raise InputError(
                "LiSSA draws mini-batches of training examples; this operator has none. Use CG or Exact."
            )
        return _PreparedLiSSA(operator, self, seed)


class _PreparedLiSSA(PreparedSolver):
    name = "LiSSA"

    def __init__(self, operator: LinearOperator, settings: LiSSA, seed: int):
        assert operator.n_examples is not None
        self.settings = settings
        self._seed = seed
        self._batch = min(settings.batch_size, operator.n_examples)
        proven = operator.lower_bound > 0
        smallest = operator.lower_bound
        if not proven:
            spectrum = lanczos_spectrum(operator, seed=seed)
            if spectrum.smallest <= 0:
                raise measured(operator, spectrum.smallest, seed, seen="The Neumann series diverges. ")
            smallest = spectrum.smallest_positive
        super().__init__(operator, smallest, proven)
        self.scale = settings.scale if settings.scale is not None else self._measured_scale()
        wanted = math.ceil(math.log(settings.bias) / math.log1p(-min(smallest / self.scale, 0.999)))
        self.depth = settings.depth if settings.depth is not None else min(max(wanted, 1), settings.max_depth)
        self._short = settings.depth is None and wanted > settings.max_depth
        self._wanted = wanted
        self.notes = {
            "scale": self.scale,
            "depth": self.depth,
            "repeats": settings.repeats,
            "batch_size": self._batch,
            "bias_bound": (1 - min(smallest / self.scale, 1.0)) ** self.depth,
        }
        # Whether the bias is no more than asked for, and that proven.
        self._bounded = proven and self.notes["bias_bound"] <= settings.bias

    def _measured_scale(self) -> float:
        generator = torch.Generator().manual_seed(self._seed)
        largest = 0.0
        for _ in range(_PROBED_BATCHES):
            spectrum = lanczos_spectrum(self._draw(generator), steps=10, starts=1, seed=self._seed)
            largest = max(largest, spectrum.largest_upper)
        return _SCALE_MARGIN * largest

    def _draw(self, generator: torch.Generator) -> LinearOperator:
        assert self.operator.n_examples is not None
        indices = torch.randint(self.operator.n_examples, (self._batch,), generator=generator)
        return self.operator.sampled(indices.to(self.operator.device))

    def solve(self, rhs: Float[Tensor, "p k"]) -> Solution:
        """
        Raises:
            InputError: the depth leaves nine tenths of the answer out.
            DivergenceError: the series diverges.
        """
        repeats, k = self.settings.repeats, rhs.shape[1]
        self._require_hope(rhs)
        runs = []
        with progress_bar("LiSSA", repeats * self.depth) as bar:
            for repeat in range(repeats):
                generator = torch.Generator().manual_seed(self._seed * 1_000_003 + repeat)
                runs.append(self._run(rhs, generator, bar))
        stacked = torch.stack(runs)
        mean = stacked.mean(0)
        residual = rhs - self.operator.matmat(mean)
        self._require_convergence(residual, rhs)
        noise = (stacked - mean) / math.sqrt(max(repeats * (repeats - 1), 1))
        # xᵀC_λx without another product: the residual is at hand.
        answer = (mean * (rhs - residual)).sum(0).clamp(min=0)
        if self._bounded and repeats > 1:
            bias = self.notes["bias_bound"] * mean
            missing = self.notes["bias_bound"] ** 2 * answer
        else:
            assert self.operator.n_examples is not None
            cost = repeats * self.depth * self._batch / self.operator.n_examples
            refused = partial(measured, self.operator, seed=self._seed)
            bias = missing_part(self.operator, residual, cost, refused)
            missing = (bias * residual).sum(0).clamp(min=0)
        verdict = judge(
            answer,
            self._noise_energy(noise),
            missing,
            aim=self.settings.bias,
            deeper=self._how_to_go_deeper(),
            repeats=repeats,
        )
        return solution_from(
            self.operator,
            rhs,
            mean,
            converged=torch.zeros(k, dtype=torch.bool) if self._short else verdict.converged,
            reason=self._shortfall() if self._short else verdict.reason,
            iterations=torch.full((k,), repeats * self.depth),
            error_directions=torch.cat([noise, bias[None]]),
            residual=residual,
        )

    def _noise_energy(self, noise: Float[Tensor, "r p k"]) -> Float[Tensor, " k"]:
        """`Σ_r d_rᵀC_λd_r` on a few mini-batches, by a random sum of the directions."""
        assert self.operator.n_examples is not None
        generator = torch.Generator().manual_seed(self._seed)
        signs = torch.randint(2, (len(noise),), generator=generator).to(noise) * 2 - 1
        summed = torch.einsum("r,rpk->pk", signs, noise)
        count = min(_PROBED_BATCHES * self._batch, self.operator.n_examples)
        indices = torch.randint(self.operator.n_examples, (count,), generator=generator)
        sample = self.operator.sampled(indices.to(self.operator.device))
        return (summed * sample.matmat(summed)).sum(0).clamp(min=0)

    def _require_hope(self, rhs: Float[Tensor, "p k"]) -> None:
        """Refuse a series that cannot reach its answer in its steps; a few full products, and only where the
        smallest eigenvalue leaves that open."""
        if self.notes["bias_bound"] <= _HOPELESS:
            return
        expected = predict(self.operator, rhs, self.scale, self.depth, self.settings.bias)
        if expected.share > _HOPELESS:
            given = "" if self.settings.depth is not None else f" (max_depth={self.settings.max_depth})"
            raise InputError(
                f"LiSSA with scale={self.scale:.4g} and depth={self.depth}{given} would leave "
                f"{expected.share:.0%} of the answer out; no step was taken. A bias of "
                f"{self.settings.bias:g} needs about {expected.steps:.2g} steps. Use CG() or Exact(), add "
                f"damping, {'leave scale=None, ' if self.settings.scale is not None else ''}or allow more "
                "steps."
            )

    def _require_convergence(self, residual: Float[Tensor, "p k"], rhs: Float[Tensor, "p k"]) -> None:
        sizes = rhs.norm(dim=0)
        relative = residual.norm(dim=0) / torch.where(sizes > 0, sizes, torch.ones_like(sizes))
        worst = float(relative.max())
        if not worst <= _USELESS:
            raise DivergenceError(
                f"LiSSA diverged: the residual of its answer is {worst:.3g} times the right-hand side, where "
                f"the answer 0 would leave 1. The scale {self.scale:.4g} is too small, or mini-batches of "
                f"{self._batch} are too noisy for it. Leave scale=None to have it measured, raise it (try "
                f"{4 * self.scale:.3g}), or use a larger batch_size or more repeats."
            )

    def _shortfall(self) -> str:
        return (
            f"depth is limited to max_depth={self.settings.max_depth}, but a bias of {self.settings.bias:g} "
            f"needs {self._wanted} steps: {self._how_to_go_deeper()}"
        )

    def _how_to_go_deeper(self) -> str:
        if self.settings.depth is None:
            return "allow more with max_depth, or add damping"
        return (
            f"take more steps than depth={self.depth}, a smaller scale than {self.scale:.4g}, or add damping"
        )

    def _run(self, rhs: Float[Tensor, "p k"], generator: torch.Generator, bar: Any) -> Float[Tensor, "p k"]:
        state = rhs.clone()
        # With every mini-batch between λ_min and σ, ‖s_j‖ ≤ ‖v‖ min(j + 1, σ/λ_min): I − C̃/σ shrinks
        # everything by 1 − λ_min/σ at least. The smallest eigenvalue counts only where it is proven.
        reach = max(1.0, self.scale / self.lower_bound) if self.lower_bound_proven else math.inf
        norms = rhs.norm(dim=0)
        for step in range(self.depth):
            state = rhs + state - self._draw(generator).matmat(state) / self.scale
            if step % _CHECK_EVERY == 0 or step == self.depth - 1:
                sizes = state.norm(dim=0)
                if not bool((sizes <= _GROWTH * min(step + 2, reach) * norms).all()):
                    raise DivergenceError(
                        f"LiSSA diverged: after {step + 1} of {self.depth} steps the iterate has norm "
                        f"{float(sizes.max()):.3g}. The scale "
                        f"{self.scale:.4g} is below the largest eigenvalue of some mini-batch. Leave "
                        "scale=None to have it measured, "
                        f"raise it (try {4 * self.scale:.3g}), or use a larger batch_size than {self._batch}."
                    )
                bar.advance(min(_CHECK_EVERY, self.depth - step))
        return state / self.scale
