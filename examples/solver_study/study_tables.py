"""The numbers of the study as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def tables(studies: Sequence[dict[str, Any]]) -> str:
    """All tables, one section for each model."""
    parts = []
    for study in studies:
        parts.append(
            f"### {study['problem']} (n = {study['n']:,}, p = {study['p']:,}, "
            f"λ_max = {study['largest_eigenvalue']:.3g})\n"
        )
        parts.append(_lissa(study))
        parts.append(_damping(study))
        parts.append(_cg(study))
    return "\n".join(parts)


def _lissa(study: dict[str, Any]) -> str:
    lines = [
        "| LiSSA, one run | batch | scale | depth | bias | spread | examples seen | CPU s | diverged |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    settings = [("scale and depth chosen (bias 1e-3)", study["start"])]
    settings += [(f"depth × {row['depth'] / study['start']['depth']:.2g}", row) for row in study["depth"]]
    settings += [(f"scale × {row['share']:g}", row) for row in study["scale"]]
    settings += [(f"batch {row['batch']}", row) for row in study["batch"]]
    lines += [_setting(name, row, study["product_seconds"]) for name, row in settings]
    repeats = ", ".join(f"{row['repeats']}: {row['rms']:.2g}" for row in study["repeats"])
    return "\n".join(lines) + f"\n\nError by repeats (all else as in the first row): {repeats}.\n"


def _setting(name: str, row: dict[str, Any], seconds: dict[int, float]) -> str:
    if math.isfinite(row["deviation"]):
        bias = row["bias"]
        shown = f"{bias:.2g}" if math.isfinite(bias) else f"< {row['bias_resolution']:.1g}"
        found = f"{shown} | {row['deviation']:.2g}"
    else:
        found = "refused | refused"
    product = seconds.get(row["batch"])
    cost = "" if product is None else f"{product * row['depth']:.2g}"
    return (
        f"| {name} | {row['batch']} | {row['scale']:.3g} | {row['depth']:,.0f} | {found} | "
        f"{row['examples']:,.0f} | {cost} | {row['diverged']:.0%} |"
    )


def _damping(study: dict[str, Any]) -> str:
    lines = [
        "| damping | condition number | moved from undamped | LiSSA's error (4 repeats) | examples seen | "
        "CG's error (rtol 1e-5) | examples seen |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in study["damping_sweep"]:
        lines.append(
            f"| {row['damping']:.2g} | {row['condition']:,.0f} | {row['moved']:.1%} | "
            f"{row['lissa_after_repeats']:.2g} | "
            f"{row['lissa']['examples'] * study['start_repeats']:,.0f} | "
            f"{row['cg']['error']:.1e} | {row['cg']['examples']:,} |"
        )
    return "\n".join(lines) + "\n"


def _cg(study: dict[str, Any]) -> str:
    conditions = sorted({row["condition"] for row in study["cg"]})
    names = " | ".join(f"error, iterations at condition {condition:,.0f}" for condition in conditions)
    lines = [f"| rtol | {names} |", "| --- |" + " --- |" * len(conditions)]
    for rtol in sorted({row["rtol"] for row in study["cg"]}, reverse=True):
        cells = [
            next(row for row in study["cg"] if row["rtol"] == rtol and row["condition"] == condition)
            for condition in conditions
        ]
        shown = " | ".join(f"{cell['error']:.1e}, {cell['iterations']}" for cell in cells)
        lines.append(f"| {rtol:.0e} | {shown} |")
    return "\n".join(lines) + "\n"
