"""A monitor's file as a picture: one panel for each quantity, over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from wherefrom.errors import InputError
from wherefrom.store.files import replacing
from wherefrom.studies.geometry.monitor_file import read_records

TITLES = {
    "loss": "mean loss",
    "gradient": "gradient in the parameters",
    "complexity": "geometric complexity  mean ‖∂f/∂x‖²",
    "sharpness": "sharpness  λ_max",
    "bounds": "both sides of the bound",
    "weights": "spectral norms  ‖W‖₂",
}
# What people read for the names in the file.
_LABELS = {
    "train": "training",
    "held_out": "held out",
    "squared_norm": "‖∇L‖² of the mean",
    "norm_mean": "‖∇ℓ‖ of an example: mean",
    "norm_0.1": "10 % of examples below",
    "norm_0.5": "median example",
    "norm_0.9": "90 % of examples below",
    "left": "left: from the input",
    "right": "right: ‖∇_θ f‖²",
}
_HIDDEN = {("sharpness", "residual"), ("bounds", "ratio")}
_LEGEND = 8  # entries beyond which a legend hides the curves


def plot_monitor(path: str | Path, out: str | Path) -> Path:
    """Draw what a monitor recorded, and write the picture to `out` (the ending says which kind).

    Scales are logarithmic, but for the spectral norms.

    Raises:
        InputError: no quantity was recorded, or an ending that matplotlib does not know.
        StoreError: no monitor's file, or `out` cannot be written.
    """
    records = read_records(path)[1]
    panels = [name for name in TITLES if any(name in record for record in records)]
    if not panels:
        raise InputError(f"{path} holds no record of any quantity yet; expected at least one. Train on.")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    for number, name in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        curves = _curves(name, records)
        for label, (steps, values) in curves.items():
            # A dollar sign in a layer's name begins no formula.
            named = _LABELS.get(label, label).replace("$", r"\$")
            axes.plot(steps, values, label=named, linewidth=1.3)
        positive = all(value > 0 for _, values in curves.values() for value in values)
        if name == "weights":
            axes.set_ylim(bottom=0)
        elif positive:
            axes.set_yscale("log")
        axes.set_title(TITLES[name], fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if 1 < len(curves) <= _LEGEND:
            axes.legend(fontsize=7)
    ending = Path(out).suffix.removeprefix(".")
    if ending not in figure.canvas.get_supported_filetypes():
        raise InputError(f"out={str(out)!r}: expected a picture's file, ending in .png, .svg or .pdf")
    with replacing(out) as temporary:
        figure.savefig(temporary, format=ending, dpi=100)
    return Path(out)


def _curves(name: str, records: list[dict[str, Any]]) -> dict[str, tuple[list[int], list[float]]]:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for key, value in record.get(name, {}).items():
            if value is not None and (name, key) not in _HIDDEN:
                steps, values = curves.setdefault(key, ([], []))
                steps.append(record["step"])
                values.append(value)
    return curves
