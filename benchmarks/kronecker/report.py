"""results.json → Markdown."""

from __future__ import annotations

from typing import Any

from entrants import NOT_RUN

TITLES = {
    "mlp": "MLP 784-256-128-10",
    "mlp-reduced": "MLP, reduced",
    "resnet": "Residual network on 32×32×3",
    "resnet-reduced": "Residual network, reduced",
    "gpt2": "GPT-2 architecture, sequences of 64 tokens",
    "gpt2-reduced": "GPT-2, reduced",
}
COLUMNS = (
    "library, method",
    "labels",
    "fit s",
    "scores s",
    "total s",
    "× wherefrom",
    "× floor",
    "MiB",
    "own Spearman",
    "own error: median (max)",
    "GGN Spearman / Pearson",
    "runs",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def render(summary: dict[str, Any]) -> str:
    parts = [_setting(summary)]
    for task, title in TITLES.items():
        rows = [row for row in summary["rows"] if row["task"] == task]
        if not rows:
            continue
        shape = summary["tasks"][task]
        size = f"{shape['n']:,} train × {shape['q']} queries, {shape['p']:,} parameters"
        parts += [
            f"### {title}: {size}, damping {shape['damping']:.1e}",
            _floor_line(summary["floors"][task]),
        ]
        for method, name in (("ekfac", "EK-FAC"), ("kfac", "K-FAC"), ("identity", "Identity")):
            members = [row for row in rows if row["method"] == method]
            if members:
                parts += [f"**{name}**", _table(members)]
    if summary["convergence"]:
        parts += ["### Conjugate gradients on the damped Gauss-Newton matrix", _convergence(summary)]
    parts.append("\n".join(f"- {name}: {why}." for name, why in NOT_RUN.items()))
    return "\n\n".join(parts) + "\n"


def _setting(summary: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(summary["versions"].items()))
    data = {
        "real": "MNIST, CIFAR-10, WikiText-2",
        "synthetic": "synthetic: scikit-learn's digits, Python's documentation",
    }[summary["data"]]
    quick = " **Quick run: tiny tasks, the times mean nothing.**" if summary["quick"] else ""
    rate = summary["gemm_flops_per_second"] / 1e9
    return (
        f"float32, one thread, {summary['cpu_model']}; float32 GEMM {rate:.0f} GFLOP/s in the same runs; "
        f"data: {data}; {versions}.{quick}"
    )


def _floor_line(floors: dict[str, float]) -> str:
    return (
        f"Floor, s: fit {_seconds(floors['fit_exact'])} (exact labels), {_seconds(floors['fit_single'])} "
        f"(one vector an example); scores {_seconds(floors['full_rank'])} (full rank), "
        f"{_seconds(floors['rank_one'])} (rank one)."
    )


def _table(rows: list[dict[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: (bool(row["failure"]), row.get("total", 0.0)))
    return "\n".join([HEAD, *(_row(row, _own(row, rows)) for row in ordered)])


def _own(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """wherefrom's row at the same labels (its exact plan), which a peer's time is divided by."""
    ours = [
        r
        for r in rows
        if r["library"] == "wherefrom" and not r["failure"] and r["plan"] in ("", "exact-plan")
    ]
    same = [r for r in ours if r["labels"] == row["labels"]]
    if row["labels"] == "pydvl":  # one backward pass an example, as with true labels
        same = [r for r in ours if r["labels"] == "empirical" and r["plan"] == "exact-plan"]
    return same[0] if same else None


def _row(row: dict[str, Any], own: dict[str, Any] | None) -> str:
    name = f"{row['library']} {row['method']}" + (f", {row['plan'].replace('-', ' ')}" if row["plan"] else "")
    name = f"**{name}**" if row["library"] == "wherefrom" else name
    if row["failure"]:
        return f"| {name} | {row['labels'] or '–'} | cannot run: {_escape(row['failure'])}" + " |" * 10
    mine = row.get("own")
    ggn = f"{row['ggn']['spearman']:.2f} / {row['ggn']['pearson']:.2f}" if "ggn" in row else "–"
    cells = (
        name,
        row["labels"] or "–",
        _seconds(row["fit"]),
        _seconds(row["scores"]),
        _seconds(row["total"]),
        f"{row['total'] / own['total']:.1f}" if own else "–",
        f"{row['total'] / row['floor']:.1f}",
        f"{row['peak_mib']:.0f}",
        f"{mine['spearman']:.3f}" if mine else "–",
        f"{mine['error_median']:.0e} ({mine['error']:.0e})" if mine else "–",
        ggn,
        str(row["runs"]),
    )
    return f"| {' | '.join(cells)} |"


def _convergence(summary: dict[str, Any]) -> str:
    head = (
        "preconditioner",
        "columns",
        "products per query to 1e-3",
        "products for all",
        "CPU s",
        "residual reached",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for r in summary["convergence"]:
        cells = (
            r["preconditioner"],
            r["columns"],
            r["products"],
            str(r["shared"]),
            _seconds(r["cpu"]),
            r["residual"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
