"""`Influence`: the one class most users meet. It holds what they gave and hands it down; no mathematics
here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wherefrom.api.findings import Findings
from wherefrom.api.inputs import Inputs
from wherefrom.api.shape import Shape
from wherefrom.api.what_if import WhatIf
from wherefrom.evaluation import Recipe, Verification, verify_removals
from wherefrom.gradients import Coverage, HvpMode
from wherefrom.influence import (
    FitOptions,
    FittedInfluence,
    Measurement,
    MinimumCheck,
    Scores,
    SelfScores,
    compute_scores,
    compute_self_scores,
    explain_scores,
    layer_coverage,
    parameter_influence,
    score_parts,
)
from wherefrom.solvers import RelativeDamping, Solver
from wherefrom.task import DataForm, Objective


class Influence(WhatIf, Inputs, Findings, Shape):
    """Which training examples made a trained model predict what it predicts.

    Args:
        model: any `torch.nn.Module`, trained, in evaluation mode. It is read, never changed.
        train: what it was trained on: a map-style data set, a tuple or dict of tensors, or a list of items.
            Batches that are not `(inputs, …, targets)` or a dict with a target need `forward` and `target`.
        loss: the loss it was trained with: a name (`"cross_entropy"`, `"binary_cross_entropy"`,
            `"squared_error"`, …), a `wherefrom.losses` object, a `torch.nn` loss, or a function of
            `(outputs, targets)` that returns one loss per example.
        parameters: which parameters are studied: names, globs, a submodule, or `None` for all that require
            gradients.
        weight_decay: `α` of `R = (α/2)‖θ‖²`, one number or a mapping from names to numbers.
        regulariser: any other `R`, a function of `{name: tensor}`.
        curvature: `"auto"`, `"hessian"`, `"ggn"`, `"fisher"`, `"sampled_fisher"` or `"empirical_fisher"`.
        solver: `"auto"`, a name such as `"exact"`, `"cg"`, `"ekfac"`, `"lissa"`, or a `wherefrom.solvers`
            object.
        damping: `λ` in the units of the curvature; `RelativeDamping(0.1)`: that share of each layer's mean
            eigenvalue; `"auto"`: the latter for EK-FAC and its kin, else from the measured spectrum.
        forward, target, collate: how a batch is fed to the model, where its target is, how items become a
            batch.
        batch_size: examples per pass; from the memory budget when `None`.
        memory: budget for data, graphs and vectors: `"auto"` (a quarter of what is free, at most 4 GiB),
            bytes, or text such as `"2GB"`. What is returned comes on top: three numbers per query and
            training example; more of them than a budget that you state, or than is free, are refused before
            anything is computed, with the number of queries that would fit.
        dtype: of the computation; the model's own when `None`. `torch.float64` buys accuracy for time.
        hvp_mode: order of differentiation of Hessian products; `"auto"` times both once.
        fisher_draws: labels per example for `"sampled_fisher"`.
        seed: of everything random.
        run_dir: a directory that keeps what took long (Kronecker factors, retrainings); a killed run resumes
            from it, a changed model or data set is refused.
        progress: show progress bars when standard error is a terminal.
        form: how examples and labels are written where that is not what the model reads; given by
            `from_sklearn`.

    Scores are `∇mᵀ C_λ⁻¹ g_i`: positive means helpful when `m` is a loss, and `score / n` predicts the change
    on removal.

    Raises:
        InputError: anything that cannot be used as given; the message names it and the fix.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        *,
        loss: Any,
        parameters: str | Sequence[str] | nn.Module | None = None,
        weight_decay: float | Mapping[str, float] = 0.0,
        regulariser: Callable[[dict[str, Tensor]], Tensor] | None = None,
        curvature: str = "auto",
        solver: Solver | str = "auto",
        damping: float | RelativeDamping | Literal["auto"] = "auto",
        forward: Callable[[Any, Any], Any] | None = None,
        target: Callable[[Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        batch_size: int | None = None,
        memory: str | int | float = "auto",
        dtype: torch.dtype | None = None,
        hvp_mode: HvpMode | Literal["auto"] = "auto",
        fisher_draws: int = 1,
        seed: int = 0,
        run_dir: str | Path | None = None,
        progress: bool = True,
        form: DataForm | None = None,
    ):
        self._train = train
        self.objective = Objective(
            model,
            train,
            loss=loss,
            parameters=parameters,
            weight_decay=weight_decay,
            regulariser=regulariser,
            forward=forward,
            target=target,
            collate=collate,
            dtype=dtype,
            memory=memory,
            form=form,
        )
        self._run_dir = None if run_dir is None else Path(run_dir)
        self._options = FitOptions(
            curvature, solver, damping, batch_size, hvp_mode, fisher_draws, seed, progress, self._run_dir
        )
        self._fitted: FittedInfluence | None = None

    def fit(self) -> Influence:
        """Check model and data, build the curvature, choose damping and solver, factorise what is factorised
        once."""
        self._fitted = FittedInfluence(self.objective, self._options)
        return self

    @property
    def minimum(self) -> MinimumCheck:
        """Whether the trained parameters are a minimum of the objective, with a verdict in plain words."""
        return self.fitted.minimum

    def settings(self) -> dict[str, Any]:
        """Everything that defines the scores, chosen or given, as JSON values."""
        return self.fitted.settings()

    def scores(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        *,
        refine: int = 0,
    ) -> Scores:
        """Scores of all training examples for all queries, each with its error; see `compute_scores`."""
        return compute_scores(self.fitted, queries, measurement, refine=refine)

    def score_parts(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        *,
        refine: int = 0,
    ) -> Iterator[tuple[range, Scores]]:
        """Scores of as many queries at a time as results of fit the memory budget, one part after the other;
        see `wherefrom.influence.score_parts`."""
        return score_parts(self.fitted, queries, measurement, refine=refine)

    def explain(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    ) -> str:
        """How scores of these queries would be computed and what that is predicted to cost, as text; see
        `wherefrom.contraction.Plan`.

        Raises:
            UnsupportedError: the solver in use does not treat layers apart (EK-FAC and its kin do).
        """
        return explain_scores(self.fitted, queries, measurement)

    def coverage(self) -> list[Coverage]:
        """Which layer rule attributes which parameters, one row per block; for solvers that treat layers
        apart.

        Raises:
            UnsupportedError: the solver in use does not.
        """
        return layer_coverage(self.fitted)

    def self_scores(self, indices: Sequence[int] | Tensor | None = None) -> SelfScores:
        """Self-influence of training examples; see `compute_self_scores`."""
        return compute_self_scores(self.fitted, indices)

    def parameters(self, examples: Any) -> Float[Tensor, "k p"]:
        """Influence on the parameters, `−C_λ⁻¹ g_z`, of training indices or of any examples; see
        `parameter_influence`."""
        return parameter_influence(self.fitted, examples)

    def verify(
        self,
        queries: Any,
        recipe: Recipe,
        *,
        remove: int = 20,
        seeds: Sequence[int] = (0,),
        reduction: Literal["mean", "sum"] = "mean",
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] | None = None,
        scores: Scores | None = None,
    ) -> Verification:
        """Leave examples out one by one, retrain with `recipe`, and compare with what the scores predicted;
        see `verify_removals`."""
        return verify_removals(
            self.fitted,
            self.train,
            queries,
            recipe,
            remove=remove,
            seeds=seeds,
            reduction=reduction,
            measurement=measurement,
            scores=scores,
            run_dir=self._run_dir,
        )

    def report(
        self,
        path: str | Path,
        queries: Any,
        scores: Scores,
        *,
        name: str | None = None,
        verification: Verification | None = None,
        self_scores: SelfScores | None = None,
        describe_train: Callable[[int], Any] | None = None,
        describe_query: Callable[[int], Any] | None = None,
        class_names: Sequence[str] | None = None,
        top: int = 5,
    ) -> Path:
        """Write one self-contained page about these scores and return its path; see
        `wherefrom.report.build_section`, and `wherefrom.report.write_report`, which takes several models."""
        # Imported when a page is wanted: pictures and templates take long to load.
        from wherefrom.report import build_section, write_report

        section = build_section(
            self.fitted,
            self.train,
            queries,
            scores,
            name=name,
            verification=verification,
            self_scores=self_scores,
            describe_train=describe_train,
            describe_query=describe_query,
            class_names=class_names,
            top=top,
        )
        return write_report(path, [section])
