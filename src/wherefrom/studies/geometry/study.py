"""`wherefrom geometry`: how steep a model is in its input and in its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import torch

from wherefrom.errors import InputError, UnsupportedError
from wherefrom.influence import Attributor, Trust, trust_without_fit
from wherefrom.linalg import Estimate
from wherefrom.report import Card, Section
from wherefrom.report.describe import prediction
from wherefrom.studies.cards import train_cards
from wherefrom.studies.geometry.bounds import GradientBounds, gradient_bounds
from wherefrom.studies.geometry.complexity import geometric_complexity
from wherefrom.studies.geometry.gradient_norms import GradientNorms, gradient_norms
from wherefrom.studies.geometry.layer_rows import layer_rows, quantiles, violations
from wherefrom.studies.geometry.shown import geometry_blocks, steepest_first, tied
from wherefrom.studies.labels import has_class_labels
from wherefrom.studies.selection import spread_queries
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet, table_of
from wherefrom.studies.task import Task
from wherefrom.task import Objective, check_examples


@dataclass(frozen=True)
class Geometry(Study):
    """Show how steep the model is in its input and in its parameters, and how the two bound one another.

    For each training example looked at, for each layer, with the examples of steepest input gradient.
    """

    name: ClassVar[str] = "geometry"
    question: ClassVar[str] = "How steep is this model, and where?"
    lead: ClassVar[str] = (
        "Gradients in the input tell how far a small change of an example moves the model's answer; "
        "gradients in the parameters tell how far training on it would. In a chain of layers the second "
        "bounds the first."
    )
    needs_fit: ClassVar[bool] = False

    scalar: str | None = option(
        None,
        "Number whose gradients are taken: margin, loss, logit, or an output by its number (default: margin "
        "for classes, else loss).",
    )
    examples: int = option(256, "Training examples looked at, spread over all (0: all).", least=0)
    probes: int = option(0, "Random probes for the geometric complexity (0: exact).")
    top: int = option(8, "Steepest examples shown.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probes < 0 or self.probes == 1:
            raise InputError(
                f"probes={self.probes}: expected 0 (exact), or at least 2 for an estimate with its error"
            )

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> GeometryResult:
        """Gradient norms, bounds and geometric complexity; nothing need be fitted.

        A network outside the theorem has no bounds, and the reason instead.

        Raises:
            InputError: an unknown scalar, or one that the loss does not have.
            UnsupportedError: inputs without a gradient, such as tokens.
        """
        objective = attributor.objective
        check_examples(objective, objective.examples, progress=False)
        scalar = self.scalar or ("margin" if has_class_labels(objective) else "loss")
        meant: str | int = int(scalar) if scalar.isdigit() else scalar
        examples, numbers = spread_queries(attributor, attributor.train, self.examples or objective.n)
        say(f"{task.name}: gradients of {len(numbers):,} training examples in input and parameters")
        norms = gradient_norms(objective, examples, meant)
        say(f"{task.name}: the bound between them, layer by layer")
        bounds, reason = _bounds(objective, examples, meant)
        say(f"{task.name}: geometric complexity")
        complexity = geometric_complexity(objective, examples, probes=self.probes or None)
        card = _cards(task, attributor, numbers)
        return GeometryResult(
            task.name, norms, bounds, reason, complexity, scalar, numbers, objective.n, card, self.top
        )


@dataclass(frozen=True)
class GeometryResult(Result):
    """What was found about a task's gradients.

    Attributes:
        name: of the task.
        norms: both gradient norms of every example looked at.
        bounds: both sides of the inequality for the same examples; `None` where it does not apply.
        reason: why it does not; with bounds, why they leave some layers out.
        complexity: geometric complexity over the same examples.
        scalar: name of the number whose gradients these are.
        numbers: of the examples in the training data.
        n: size of the training set.
        card: from a position among the examples to what people see of it.
        top: examples shown.
    """

    name: str
    norms: GradientNorms
    bounds: GradientBounds | None
    reason: str
    complexity: Estimate
    scalar: str
    numbers: list[int]
    n: int
    card: Callable[[int], Card]
    top: int
    trust: Trust = field(default_factory=trust_without_fit)

    def __post_init__(self) -> None:
        n = len(self.norms.inputs)
        if self.bounds is None and not self.reason:
            raise InputError("bounds is None and reason is empty: expected the reason why there is no bound")
        if self.bounds is not None and len(self.bounds.left) != n:
            raise InputError(
                f"bounds are of {len(self.bounds.left)} examples and norms of {n}; expected the same examples"
            )

    def section(self) -> Section:
        """The gradients, the bound with its layers, the steepest examples."""
        return Section(self.name, self.trust, geometry_blocks(self))

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`geometry_examples.csv` (the steepest first), and `geometry_layers.csv` where there is a bound."""
        names = ("rank", "train", "label", "predicted", "input_norm", "parameter_norm", "left", "right")
        made: dict[str, tuple[Sequence[str], Rows]] = {"geometry_examples": (names, _rows(self))}
        if self.bounds is not None:
            made["geometry_layers"] = table_of(asdict(row) for row in layer_rows(self.bounds))
        return made

    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        norms, bounds = self.norms, self.bounds
        same = tied(norms, self.top)
        rows = [] if bounds is None else layer_rows(bounds)
        return {
            "scalar": self.scalar,
            "n": self.n,
            "looked_at": len(self.numbers),
            "input_norm": _spread(norms.inputs),
            "parameter_norm": _spread(norms.parameters),
            "geometric_complexity": asdict(self.complexity),
            "bound": None
            if bounds is None
            else {"ratio": _spread(bounds.ratio), "violations": violations(bounds)},
            "outside_the_theorem": self.reason or None,
            "layers": [asdict(row) for row in rows],
            "steepest": [] if same else [self.numbers[k] for k in steepest_first(norms)[: self.top]],
            "nothing_to_rank": same or None,
        }


def _bounds(objective: Objective, examples: Any, scalar: str | int) -> tuple[GradientBounds | None, str]:
    """The bound by all layers; else by those that all paths run through, or none, and the reason."""
    try:
        return gradient_bounds(objective, examples, scalar), ""
    except UnsupportedError as error:
        reason = str(error)
    try:
        bounds = gradient_bounds(objective, examples, scalar, layers="cut")
    except UnsupportedError:
        return None, reason  # the first reason names a layer; this one follows from it
    return bounds, "; ".join(f"{name}: {words}" for name, words in bounds.left_out.items()) + "."


def _cards(task: Task, attributor: Attributor, numbers: list[int]) -> Callable[[int], Card]:
    """Cards with what the model says of the example."""
    objective, describe = attributor.objective, train_cards(task, attributor)

    def card(position: int) -> Card:
        shown = describe(numbers[position])
        with torch.no_grad():
            batch = objective.examples.batch([numbers[position]])
            outputs = objective.outputs(objective.parameters.values, batch)
        predicted, probability = prediction(objective.loss, outputs, task.class_names)
        if shown.predicted is not None:
            return shown
        return replace(shown, predicted=predicted, probability=probability)

    return card


def _rows(result: GeometryResult) -> Iterator[tuple[Any, ...]]:
    norms, bounds = result.norms, result.bounds
    for rank, k in enumerate(steepest_first(norms), 1):
        card = result.card(k)
        yield (
            rank,
            result.numbers[k],
            card.label,
            card.predicted,
            float(norms.inputs[k]),
            float(norms.parameters[k]),
            *(("", "") if bounds is None else (float(bounds.left[k]), float(bounds.right[k]))),
        )


def _spread(values: torch.Tensor) -> dict[str, float]:
    low, middle, high = quantiles(values, 0.0, 0.5, 1.0)
    return {"smallest": low, "median": middle, "largest": high}
