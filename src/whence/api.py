"""`Influence`: the one class most users meet. It holds what they gave and hands it down; no mathematics
here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence.errors import InputError, UnsupportedError
from whence.evaluation import Recipe, Verification, verify_removals
from whence.gradients import Coverage, HvpMode
from whence.influence import (
    FitOptions,
    FittedInfluence,
    LeaveOneOut,
    Measurement,
    MinimumCheck,
    Scores,
    SelfScores,
    compute_scores,
    compute_self_scores,
    explain_scores,
    layer_coverage,
    leave_one_out,
    parameter_influence,
)
from whence.integrations import as_task
from whence.interventions import (
    FlipOrder,
    Flips,
    Indices,
    Intervention,
    RemovalCurve,
    find_flips,
    removal_curve,
)
from whence.labels import LabelAudit, label_signals
from whence.slices import GroupInfluence, HarmfulGroups, group_influence, harmful_groups
from whence.solvers import RelativeDamping, Solver
from whence.task import Objective


class Influence:
    """Which training examples made a trained model predict what it predicts.

    Args:
        model: any `torch.nn.Module`, trained, in evaluation mode. It is read, never changed.
        train: what it was trained on: a map-style data set, a tuple or dict of tensors, or a list of items.
            Batches that are not `(inputs, …, targets)` or a dict with a target need `forward` and `target`.
        loss: the loss it was trained with: a name (`"cross_entropy"`, `"binary_cross_entropy"`,
            `"squared_error"`, …), a `whence.losses` object, a `torch.nn` loss, or a function of
            `(outputs, targets)` that returns one loss per example.
        parameters: which parameters are studied: names, globs, a submodule, or `None` for all that require
            gradients.
        weight_decay: `α` of `R = (α/2)‖θ‖²`, one number or a mapping from names to numbers.
        regulariser: any other `R`, a function of `{name: tensor}`.
        curvature: `"auto"`, `"hessian"`, `"ggn"`, `"fisher"`, `"sampled_fisher"` or `"empirical_fisher"`.
        solver: `"auto"`, a name such as `"exact"`, `"cg"`, `"ekfac"`, `"lissa"`, or a `whence.solvers`
            object.
        damping: `λ` in the units of the curvature; `RelativeDamping(0.1)`: that share of each layer's mean
            eigenvalue; `"auto"`: the latter for EK-FAC and its kin, else from the measured spectrum.
        forward, target, collate: how a batch is fed to the model, where its target is, how items become a
            batch.
        batch_size: examples per pass; from the memory budget when `None`.
        memory: budget for data, graphs and vectors: `"auto"`, bytes, or text such as `"2GB"`.
        dtype: of the computation; the model's own when `None`. `torch.float64` buys accuracy for time.
        hvp_mode: order of differentiation of Hessian products; `"auto"` times both once.
        fisher_draws: labels per example for `"sampled_fisher"`.
        seed: of everything random.
        run_dir: a directory that keeps what took long (Kronecker factors, retrainings); a killed run resumes
            from it, a changed model or data set is refused.
        progress: show progress bars when standard error is a terminal.

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
    ):
        self.train = train
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
    def fitted(self) -> FittedInfluence:
        """What `fit` computed.

        Raises:
            InputError: `fit` was not called.
        """
        if self._fitted is None:
            raise InputError("this Influence is not fitted yet: call .fit() first")
        return self._fitted

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

    def explain(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    ) -> str:
        """How scores of these queries would be computed and what that is predicted to cost, as text; see
        `whence.contraction.Plan`.

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

    def leave_one_out(
        self,
        queries: Any,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        *,
        indices: Indices | None = None,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> LeaveOneOut:
        """Every single removal by a Newton step in closed form: first order corrected by the leverage; see
        `whence.influence.leave_one_out`."""
        return leave_one_out(self.fitted, queries, measurement, indices=indices, reduction=reduction)

    def remove(self, indices: Indices) -> Intervention:
        """What if these training examples were taken out? See `whence.interventions.Intervention`."""
        return self._intervention().remove(indices)

    def upweight(self, indices: Indices, times: float | int) -> Intervention:
        """What if these training examples counted `times` as much?"""
        return self._intervention().upweight(indices, times)

    def relabel(self, indices: Indices, labels: Any) -> Intervention:
        """What if these training examples had other targets?"""
        return self._intervention().relabel(indices, labels)

    def replace(self, indices: Indices, examples: Any) -> Intervention:
        """What if other examples stood in the place of these training examples?"""
        return self._intervention().replace(indices, examples)

    def add(self, examples: Any) -> Intervention:
        """What if the model had been trained on these examples too?"""
        return self._intervention().add(examples)

    def perturb(
        self, indices: Indices, delta: Any, *, valid_range: tuple[float, float] | None = None
    ) -> Intervention:
        """What if the inputs of these training examples were moved by `delta`?"""
        return self._intervention().perturb(indices, delta, valid_range=valid_range)

    def flip(
        self,
        queries: Any,
        *,
        max_size: int | None = None,
        order: FlipOrder = "auto",
        reduction: Literal["mean", "sum"] = "mean",
        rivals: int = 3,
    ) -> Flips:
        """Which smallest set of training examples, taken out, would flip each query's prediction? See
        `whence.interventions.find_flips`; `.confirm(recipe)` retrains without them."""
        return find_flips(
            self.fitted,
            self.train,
            queries,
            max_size=max_size,
            order=order,
            reduction=reduction,
            rivals=rivals,
            # Apart from the other retrainings, which measure something else.
            run_dir=None if self._run_dir is None else self._run_dir / "flips",
        )

    def removal_curve(
        self,
        order: Indices,
        sizes: Sequence[int],
        queries: Any,
        recipe: Recipe | None = None,
        **options: Any,
    ) -> RemovalCurve:
        """What removing the first few, and then more, of a ranking of training examples does: predicted, and
        retrained where a recipe is given; see `whence.interventions.removal_curve`."""
        return removal_curve(
            self.fitted, self.train, order, sizes, queries, recipe, run_dir=self._run_dir, **options
        )

    def _intervention(self) -> Intervention:
        return Intervention(self.fitted, self.train, run_dir=self._run_dir)

    def slices(
        self,
        queries: Any,
        train_groups: Any,
        query_groups: Any = None,
        *,
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
    ) -> GroupInfluence:
        """What each group of training examples does to each group of queries, and which examples carry it;
        see `whence.slices.group_influence`."""
        return group_influence(self.fitted, queries, train_groups, query_groups, measurement=measurement)

    def harmful_groups(
        self,
        validation: Any,
        *,
        clusters: int | Literal["auto"] = "auto",
        measurement: str | Measurement | Callable[[Tensor, Any], Tensor] = "loss",
        seed: int = 0,
    ) -> HarmfulGroups:
        """Clusters of training examples that hurt a validation set together, the worst first; see
        `whence.slices.harmful_groups`."""
        return harmful_groups(self.fitted, validation, clusters=clusters, measurement=measurement, seed=seed)

    def labels(
        self,
        validation: Any = None,
        *,
        indices: Sequence[int] | Tensor | None = None,
        self_scores: SelfScores | None = None,
        left_out: Literal["gradient", "exact"] = "gradient",
        class_names: Sequence[str] | None = None,
    ) -> LabelAudit:
        """Which training labels look wrong, by several signs, and what they should be; see
        `whence.labels.label_signals`."""
        return label_signals(
            self.fitted,
            validation,
            indices=indices,
            self_scores=self_scores,
            left_out=left_out,
            class_names=class_names,
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
        `whence.report.build_section`, and `whence.report.write_report`, which takes several models."""
        # Imported when a page is wanted: pictures and templates take long to load.
        from whence.report import build_section, write_report

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


def from_sklearn(fitted: Any, X: Any, y: Any, **options: Any) -> Influence:
    """Influence for a fitted `LogisticRegression`, `Ridge` or `LinearRegression`, with its own objective.

    Args:
        fitted: the estimator.
        X, y: what it was fitted to, as given to its `fit`.
        options: further arguments of `Influence`. `damping` is 0, or negligible where the objective leaves a
            direction free.

    Queries are `whence.integrations.as_examples(fitted, X_query, y_query)`; `verify` takes the recipe
    `whence.integrations.refit(fitted)` with `reduction="sum"`. Call `.fit()` on the result.

    Raises:
        UnsupportedError: an estimator or option without a counterpart, `sample_weight` and `class_weight`
            among them.
        InputError: not fitted, wrong shapes, or coefficients that are not the optimum for `X, y`.
    """
    if "sample_weight" in options:
        raise UnsupportedError(
            "sample_weight is not supported: every example has the weight 1/n in the objective"
        )
    fixed = sorted({"loss", "weight_decay", "regulariser"} & options.keys())
    if fixed:
        raise InputError(
            f"{fixed[0]}= is given by the estimator; build an Influence yourself for another objective"
        )
    task = as_task(fitted, X, y)
    chosen = {"damping": task.damping, **options}
    return Influence(task.model, task.train, loss=task.loss, weight_decay=task.weight_decay, **chosen)
