"""`Influence`: the class most users meet. Its methods are the functions of the floors below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from wherefrom.evaluation import verify_removals
from wherefrom.gradients import HvpMode
from wherefrom.influence import (
    Fit,
    FitOptions,
    explain_scores,
    input_influence,
    layer_coverage,
    leave_one_out,
    parameter_influence,
    score_parts,
    token_replacements,
)
from wherefrom.interventions import Editable, Edits, Intervention, find_flips, removal_curve
from wherefrom.report import write_page
from wherefrom.solvers import RelativeDamping, Solver
from wherefrom.studies.attack import audit_poisoning, run_attack
from wherefrom.studies.geometry import geometric_complexity, gradient_bounds, gradient_norms
from wherefrom.studies.labels import label_signals, relabel_scores
from wherefrom.studies.slices import group_influence, harmful_groups
from wherefrom.studies.spectra import spectrum_report
from wherefrom.task import Data, DataForm, Objective


class Influence(Fit, Editable):
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

    Call `fit()` before anything else; `Influence(…).fit()` is the fitted object.

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
        objective = Objective(
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
        directory = None if run_dir is None else Path(run_dir)
        options = FitOptions(
            curvature, solver, damping, batch_size, hvp_mode, fisher_draws, seed, progress, directory
        )
        super().__init__(objective, options)

    # Scores, and what goes with them.
    score_parts = score_parts
    explain = explain_scores
    coverage = layer_coverage
    parameter_influence = parameter_influence
    leave_one_out = leave_one_out
    input_influence = input_influence
    token_replacements = token_replacements
    verify = verify_removals
    report = write_page

    # What if the training data were changed? Single edits are those of `Editable`.
    flip = find_flips
    removal_curve = removal_curve

    # What is in the training data, and in the model?
    labels = label_signals
    relabel_scores = relabel_scores
    slices = group_influence
    harmful_groups = harmful_groups
    attack = run_attack
    poisoning = audit_poisoning
    spectrum = spectrum_report
    gradient_norms = gradient_norms
    gradient_bounds = gradient_bounds
    geometric_complexity = geometric_complexity

    @property
    def _source(self) -> Data:
        return self.data

    def _with(self, edits: Edits) -> Intervention:
        return Intervention(self, edits)
