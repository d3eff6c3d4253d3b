"""The table of a run, in Markdown."""

from __future__ import annotations

from typing import Any

from entrants import LABELS

_TITLES = {
    "eigenvalues": "10 largest eigenvalues, each within {:.1%}",
    "trace": "trace, root mean square error ≤ {:.0%}",
    "density": "spectral distribution at equal Hessian products; error: distance in mean eigenvalues",
}
_HEAD = (
    "| library | method | error | Hessian products | CPU, s (range) | ÷ Wherefrom | floor, s | peak, MiB |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)


def render(results: dict[str, Any]) -> str:
    parts = []
    for problem, question in dict.fromkeys((row["problem"], row["question"]) for row in results["rows"]):
        rows = [r for r in results["rows"] if (r["problem"], r["question"]) == (problem, question)]
        ours = next((row["cpu"] for row in rows if row["library"] == "wherefrom" and row["timed"]), None)
        title = _TITLES[question].format(results["targets"].get(question, 0))
        parts.append(f"**{problem}: {title}**\n\n{_HEAD}\n" + "\n".join(_line(row, ours) for row in rows))
    return "\n\n".join(parts) + "\n"


def _line(row: dict[str, Any], ours: float | None) -> str:
    name = LABELS[row["library"]]
    if not row["timed"]:
        why = row["failure"] or f"not met; best {row['best']:.2g}"
        return f"| {name} | {why} | | | | | | |"
    settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items() if key != "mode")
    method = settings if row["method"] == row["question"] else f"{row['method']}, {settings}"
    low, high = row["cpu_range"]
    ratio = f"{row['cpu'] / ours:.2f}" if ours else ""
    missed = "" if row["met"] else " **not met**"
    return (
        f"| {name} {row['version']} | {method} | {row['error']:.1e}{missed} | {row['products']:.0f} "
        f"| {row['cpu']:.2f} ({low:.2f}–{high:.2f}) | {ratio} | {row['floor']:.2f} | {row['peak_mib']:.0f} |"
    )
