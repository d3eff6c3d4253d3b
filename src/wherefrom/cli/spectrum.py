"""From a task to the spectrum of its curvature: files and a page. No mathematics, no printing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wherefrom.api import Influence
from wherefrom.influence import Trust, trust_of
from wherefrom.report import Panel, write_panels
from wherefrom.report.files import write_table
from wherefrom.report.spectrum_panel import spectrum_panel
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.spectra import ClassMeans, SpectrumReport
from wherefrom.studies.task import Task

TITLE = "What is the loss like here?"
LEAD = (
    "The curvature of the training objective around the trained parameters: in how many directions it is "
    "steep, where that comes from, and what it says about the trust that influence scores deserve."
)


@dataclass(frozen=True)
class SpectrumOptions:
    """What the command line chooses.

    Attributes:
        top, steps, starts, learning_rate: as for `spectrum_report`; the last is the task's if not given.
        curvature: which matrix, instead of the task's.
        solver: name of a solver, instead of the task's.
        progress: show progress bars.
    """

    top: int = 10
    steps: int = 60
    starts: int = 4
    curvature: str | None = None
    learning_rate: float | None = None
    solver: str | None = None
    progress: bool = True


@dataclass(frozen=True)
class SpectrumResult:
    """What was found about a task's curvature."""

    task: Task
    report: SpectrumReport
    trust: Trust | None = None

    def panel(self) -> Panel:
        """Its block of a page."""
        return spectrum_panel(self.report)


def find_spectrum(task: Task, influence: Influence, options: SpectrumOptions) -> SpectrumResult:
    """The report of a fitted task.

    Raises:
        InputError: as `wherefrom.studies.spectra.spectrum_report`.
    """
    rate = task.learning_rate if options.learning_rate is None else options.learning_rate
    report = influence.spectrum(
        top=options.top, steps=options.steps, starts=options.starts, learning_rate=rate
    )
    return SpectrumResult(task, report, trust_of(influence))


def run_spectrum(
    task: Task,
    out: str | Path,
    options: SpectrumOptions | None = None,
    *,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> SpectrumResult:
    """Write `report.html`, `spectrum.json`, `layers.csv` and `density.csv`.

    Raises:
        WherefromError: whatever is wrong with the task.
    """
    options = options or SpectrumOptions()
    if options.curvature is not None:
        task = replace(task, options={**task.options, "curvature": options.curvature})
    on_stage(f"{task.name}: checking model and data, fitting the curvature")
    influence = task.fit(solver=options.solver, progress=options.progress)
    on_stage(f"{task.name}: spectrum of the curvature of {influence.objective.p:,} parameters")
    result = find_spectrum(task, influence, options)
    on_stage("writing the page")
    out = Path(out)
    write_spectrum(result, out)
    write_panels(out / "report.html", [result.panel()], TITLE, LEAD, result.trust)
    return result


def write_spectrum(result: SpectrumResult, out: Path) -> None:
    """Write the summary, the table of layers, and the nodes and weights of the density.

    Raises:
        StoreError: a file cannot be written.
    """
    report = result.report
    write_table(
        out / "layers.csv",
        (
            "layer",
            "parameters",
            "trace",
            "trace_standard_error",
            "largest",
            "effective_dimension",
            "top_share",
        ),
        (
            (
                layer.name,
                layer.size,
                layer.trace.value,
                layer.trace.standard_error,
                layer.largest,
                "" if layer.effective_dimension is None else layer.effective_dimension.value,
                layer.top_share,
            )
            for layer in report.layers
        ),
    )
    density = report.density
    write_table(
        out / "density.csv",
        ("start", "eigenvalue", "share"),
        (
            (start, float(node), float(weight))
            for start in range(density.nodes.shape[0])
            for node, weight in zip(density.nodes[start], density.weights[start])
            if float(weight) > 0
        ),
    )
    write_atomically(out / "spectrum.json", dump_json(_summary(result), indent=2) + "\n")


def _summary(result: SpectrumResult) -> dict[str, Any]:
    report, classes = result.report, result.report.classes
    return {
        "name": result.task.name,
        "curvature": report.curvature,
        "n": report.n,
        "p": report.p,
        "top": {
            "values": report.top.values.tolist(),
            "residuals": report.top.residuals.tolist(),
            "products": report.top.products,
            "converged": report.top.converged,
        },
        "trace": asdict(report.trace),
        "log_determinant": None if report.log_determinant is None else asdict(report.log_determinant),
        "effective_dimension": None
        if report.effective_dimension is None
        else asdict(report.effective_dimension),
        "damping": report.damping,
        "classes": {
            "by_class": classes.by_class.tolist(),
            "by_pair": classes.by_pair.tolist(),
            "chance_class": classes.chance_class,
            "chance_pair": classes.chance_pair,
        }
        if isinstance(classes, ClassMeans)
        else classes,
        "hessian": report.hessian if isinstance(report.hessian, str) else asdict(report.hessian),
        "minimum": report.minimum.as_dict(),
        "learning_rate": report.learning_rate,
        "verdict": asdict(report.verdict),
        "trust": None if result.trust is None else result.trust.as_dict(),
    }
