"""The shape of the loss in an audit: spectrum and geometry, each with its files and its panel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from wherefrom.api import Influence
from wherefrom.cli.geometry import find_geometry, write_geometry
from wherefrom.cli.spectrum import SpectrumOptions, find_spectrum, write_spectrum
from wherefrom.errors import UnsupportedError
from wherefrom.report import Panel
from wherefrom.studies.task import Task


def shape_panels(
    task: Task, influence: Influence, folder: Path, on_stage: Callable[[str], None]
) -> list[Panel]:
    """Panels about the curvature and about the gradients; inputs that have no gradient leave out the latter,
    which is said as a stage.

    Raises:
        StoreError: a file cannot be written.
    """
    on_stage(f"{task.name}: spectrum of the curvature of {influence.objective.p:,} parameters")
    spectrum = find_spectrum(task, influence, SpectrumOptions())
    write_spectrum(spectrum, folder)
    panels = [spectrum.panel()]
    try:
        geometry = find_geometry(task, influence, on_stage=on_stage)
    except UnsupportedError as error:
        on_stage(f"{task.name}: no gradients in the input: {error}")
        return panels
    write_geometry(geometry, folder)
    return [*panels, geometry.panel()]
