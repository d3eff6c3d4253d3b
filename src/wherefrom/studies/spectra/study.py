"""`wherefrom spectrum`: the curvature of the loss, where it lies, and whether influence can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from wherefrom.influence import Attributor, Trust, as_fit, trust_of
from wherefrom.influence.kept import kept
from wherefrom.report import Section
from wherefrom.studies.spectra.class_means import ClassMeans
from wherefrom.studies.spectra.report import SpectrumReport, spectrum_report
from wherefrom.studies.spectra.shown import spectrum_blocks
from wherefrom.studies.study import Result, Rows, Say, Study, option, quiet, table_of
from wherefrom.studies.task import Task


@dataclass(frozen=True)
class LossSpectrum(Study):
    """Show the curvature of the loss: its spectrum, where it lies, and whether influence can be trusted."""

    name: ClassVar[str] = "spectrum"
    question: ClassVar[str] = "What is the loss like here?"
    lead: ClassVar[str] = (
        "The curvature of the training objective around the trained parameters: in how many directions it is "
        "steep, where that comes from, and what it says about the trust that influence scores deserve."
    )

    top: int = option(10, "Leading eigenpairs.", least=1)
    steps: int = option(60, "Lanczos steps for the density.", least=2)
    starts: int = option(4, "Random starts of the density; more lower its error.", least=2)
    curvature: str | None = option(None, "hessian, ggn, fisher, … (default: the task's).")
    learning_rate: float | None = option(None, "Of the training, to compare the sharpness with 2/rate.")

    def prepared(self, task: Task) -> Task:
        """With another curvature, where one is asked for."""
        if self.curvature is None:
            return task
        return replace(task, options={**task.options, "curvature": self.curvature})

    def run(self, attributor: Attributor, task: Task, say: Say = quiet) -> SpectrumResult:
        """The report of a fitted task.

        Raises:
            InputError: as `spectrum_report`.
            UnsupportedError: a method without a curvature.
        """
        fitted = as_fit(attributor, "the spectrum of the curvature")
        say(f"{task.name}: spectrum of the curvature of {fitted.objective.p:,} parameters")
        rate = task.learning_rate if self.learning_rate is None else self.learning_rate
        options: dict[str, Any] = {
            "top": self.top,
            "steps": self.steps,
            "starts": self.starts,
            "learning_rate": rate,
        }
        report = kept(
            fitted,
            "spectrum",
            lambda: spectrum_report(fitted, **options),
            of=[options],
        )
        return SpectrumResult(task.name, report, trust_of(fitted))


@dataclass(frozen=True)
class SpectrumResult(Result):
    """What was found about a task's curvature."""

    name: str
    report: SpectrumReport
    trust: Trust

    def section(self) -> Section:
        """The verdict, the density, the layers."""
        return Section(self.name, self.trust, spectrum_blocks(self.report, self.trust.retraining))

    def tables(self) -> dict[str, tuple[Sequence[str], Rows]]:
        """`layers.csv`, and the nodes and weights of the density, `density.csv`."""
        density = self.report.density
        return {
            "layers": table_of(
                {
                    "layer": layer.name,
                    "parameters": layer.size,
                    "trace": layer.trace.value,
                    "trace_standard_error": layer.trace.standard_error,
                    "largest": layer.largest,
                    "effective_dimension": layer.effective_dimension and layer.effective_dimension.value,
                    "top_share": layer.top_share,
                }
                for layer in self.report.layers
            ),
            "density": (
                ("start", "eigenvalue", "share"),
                (
                    (start, float(node), float(weight))
                    for start in range(density.nodes.shape[0])
                    for node, weight in zip(density.nodes[start], density.weights[start])
                    if float(weight) > 0
                ),
            ),
        }

    def summary(self) -> dict[str, Any]:
        """Headline numbers."""
        report, classes = self.report, self.report.classes
        return {
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
        }
