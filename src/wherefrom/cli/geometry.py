"""From a task to gradients in the input and in the parameters: numbers, files and a page. No mathematics, no
printing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wherefrom.api import Influence
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.influence import trust_without_fit
from wherefrom.linalg import Estimate
from wherefrom.report import Card, Panel, write_panels
from wherefrom.report.describe import prediction
from wherefrom.report.files import write_table
from wherefrom.report.geometry_layers import layer_rows, quantiles, violations
from wherefrom.report.geometry_panel import geometry_panel, steepest_first, tied
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.cards import train_cards
from wherefrom.studies.geometry import GradientBounds, GradientNorms
from wherefrom.studies.labels import has_class_labels
from wherefrom.studies.selection import spread_queries
from wherefrom.studies.task import Task
from wherefrom.task import check_examples

PAGE_TITLE = "How steep is this model, and where?"
LEAD = (
    "Gradients in the input tell how far a small change of an example moves the model's answer; gradients in "
    "the parameters tell how far training on it would. In a chain of layers the second bounds the first."
)
_BATCH = 256


@dataclass(frozen=True)
class GeometryOptions:
    """What the command line chooses.

    Attributes:
        scalar: the number whose gradients are taken: `"margin"`, `"loss"`, `"logit"`, or an output by its
            number; `None`: the margin where the loss has classes, else the loss.
        examples: training examples looked at, spread evenly over all; 0: all.
        probes: random probes for the geometric complexity; 0: exact.
        top: examples of steepest input gradient shown.
    """

    scalar: str | None = None
    examples: int = 256
    probes: int = 0
    top: int = 8

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise InputError(f"examples={self.examples}: expected 0 (all training examples) or more")
        if self.probes < 0 or self.probes == 1:
            raise InputError(
                f"probes={self.probes}: expected 0 (exact), or at least 2 for an estimate with its error"
            )
        if self.top < 1:
            raise InputError(f"top={self.top}: expected at least 1")


@dataclass(frozen=True)
class GeometryResult:
    """What was found about a task's gradients.

    Attributes:
        task: what was looked at.
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

    task: Task
    norms: GradientNorms
    bounds: GradientBounds | None
    reason: str
    complexity: Estimate
    scalar: str
    numbers: list[int]
    n: int
    card: Callable[[int], Card]
    top: int

    def panel(self) -> Panel:
        """Its block of a page."""
        return geometry_panel(
            self.norms,
            self.card,
            bounds=self.bounds,
            reason=self.reason,
            complexity=self.complexity,
            scalar=self.scalar,
            numbers=self.numbers,
            top=self.top,
        )


def find_geometry(
    task: Task,
    influence: Influence,
    options: GeometryOptions | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> GeometryResult:
    """Gradient norms, bounds and geometric complexity of a task; `influence` need not be fitted.

    A network outside the theorem has no bounds, and the reason instead.

    Raises:
        InputError: an unknown scalar, or one that the loss does not have.
        UnsupportedError: inputs without a gradient, such as tokens.
    """
    options = options or GeometryOptions()
    objective = influence.objective
    scalar = options.scalar or ("margin" if has_class_labels(objective) else "loss")
    meant: str | int = int(scalar) if scalar.isdigit() else scalar
    count = options.examples or objective.n
    examples, numbers = spread_queries(influence, task.train, count)
    on_stage(f"{task.name}: gradients of {len(numbers):,} training examples in input and parameters")
    norms = influence.gradient_norms(examples, meant)
    on_stage(f"{task.name}: the bound between them, layer by layer")
    bounds, reason = _bounds(influence, examples, meant)
    on_stage(f"{task.name}: geometric complexity")
    complexity = influence.geometric_complexity(examples, probes=options.probes or None)
    card = _cards(task, influence, numbers)
    return GeometryResult(
        task, norms, bounds, reason, complexity, scalar, numbers, objective.n, card, options.top
    )


def _bounds(influence: Influence, examples: Any, scalar: str | int) -> tuple[GradientBounds | None, str]:
    """The bound by all layers; else by those that all paths run through, or none, and the reason."""
    try:
        return influence.gradient_bounds(examples, scalar), ""
    except UnsupportedError as error:
        reason = str(error)
    try:
        bounds = influence.gradient_bounds(examples, scalar, layers="cut")
    except UnsupportedError:
        return None, reason  # the first reason names a layer; this one follows from it
    return bounds, "; ".join(f"{name}: {words}" for name, words in bounds.left_out.items()) + "."


def _cards(task: Task, influence: Influence, numbers: list[int]) -> Callable[[int], Card]:
    """Cards with what the model says of the example."""
    objective, describe = influence.objective, train_cards(task, influence)

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


def run_geometry(
    task: Task,
    out: str | Path,
    options: GeometryOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> GeometryResult:
    """Write `report.html`, `geometry_examples.csv` (the steepest first), `geometry_layers.csv` where there is
    a bound, and `geometry.json`.

    Raises:
        WherefromError: whatever is wrong with the task.
    """
    on_stage(f"{task.name}: checking model and data")
    influence = Influence(task.model, task.train, loss=task.loss, progress=False, **task.options)
    objective = influence.objective
    check_examples(objective, objective.examples, batch_size=_BATCH, progress=False)
    result = find_geometry(task, influence, options, on_stage)
    on_stage("writing the page")
    out = Path(out)
    write_geometry(result, out)
    write_panels(out / "report.html", [result.panel()], PAGE_TITLE, LEAD, trust_without_fit())
    return result


def write_geometry(result: GeometryResult, out: Path) -> None:
    """Write the tables and the summary.

    Raises:
        StoreError: a file cannot be written.
    """
    names = ("rank", "train", "label", "predicted", "input_norm", "parameter_norm", "left", "right")
    write_table(out / "geometry_examples.csv", names, _rows(result))
    rows = [] if result.bounds is None else layer_rows(result.bounds)
    if rows:
        table = [asdict(row) for row in rows]
        write_table(out / "geometry_layers.csv", list(table[0]), (list(row.values()) for row in table))
    norms, bounds, complexity = result.norms, result.bounds, result.complexity
    same = tied(norms, result.top)
    summary = {
        "name": result.task.name,
        "scalar": result.scalar,
        "n": result.n,
        "looked_at": len(result.numbers),
        "input_norm": _spread(norms.inputs),
        "parameter_norm": _spread(norms.parameters),
        "geometric_complexity": asdict(complexity),
        "bound": None
        if bounds is None
        else {"ratio": _spread(bounds.ratio), "violations": violations(bounds)},
        "outside_the_theorem": result.reason or None,
        "layers": [asdict(row) for row in rows],
        "steepest": [] if same else [result.numbers[k] for k in steepest_first(norms)[: result.top]],
        "trust": trust_without_fit().as_dict(),
        "nothing_to_rank": same or None,
    }
    write_atomically(out / "geometry.json", dump_json(summary, indent=2) + "\n")


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
