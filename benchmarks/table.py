"""results.json → Markdown."""

from __future__ import annotations

from typing import Any

import environments
from competitors import TARGETS

TITLES = {
    "digits.hessian": "Digits: softmax regression, 1,500 train × 297 queries, p = 650, Hessian",
    "mlp.hessian": "MLP 784-256-128-10, 2,000 train × 40 queries, p = 235,146, Hessian",
    "mlp.ggn": "The same MLP, generalised Gauss-Newton",
}
FAMILIES = {"exact": "Exact", "cg": "Conjugate gradients", "lissa": "LiSSA"}
COLUMNS = (
    "method",
    "settings",
    "error (median)",
    "CPU s",
    "× wherefrom",
    "× floor",
    "MiB",
    "× wherefrom",
    "runs",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"


def render(results: dict[str, Any]) -> str:
    """The page's tables: one per task and curvature, families apart, fastest first, failures last."""
    parts = [_setting(results)]
    for group, title in TITLES.items():
        rows = [row for row in results["rows"] if f"{row['task']}.{row['curvature']}" == group]
        if not rows:
            continue
        parts.append(f"### {title}" if not results["quick"] else f"### {title} (quick: smaller)")
        for family, name in FAMILIES.items():
            members = [row for row in rows if row["family"] == family]
            if members:
                target = f"target: largest relative error of a query ≤ {TARGETS[family]:.0e}"
                parts += [f"**{name}** ({target})", _family(members)]
    parts.append("\n".join(f"- {name}: {why}." for name, why in environments.LEFT_OUT.items()))
    return "\n\n".join(parts) + "\n"


def headline(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Per group and family: CPU and memory of the fastest peer that met the target over wherefrom's."""
    found: dict[str, dict[str, float]] = {}
    for group in sorted({(r["task"], r["curvature"], r["family"]) for r in results["rows"]}):
        rows = [r for r in results["rows"] if (r["task"], r["curvature"], r["family"]) == group and r["met"]]
        own = [r for r in rows if r["library"] == "wherefrom"]
        peers = sorted((r for r in rows if r["library"] != "wherefrom"), key=lambda r: r["cpu"])
        if own and peers:
            found[".".join(group)] = {
                "speed_up": peers[0]["cpu"] / own[0]["cpu"],
                "memory": own[0]["peak_mib"] / peers[0]["peak_mib"],
            }
    return found


def _setting(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items()))
    rate = results["gemm_flops_per_second"] / 1e9
    return (
        f"float32, one thread, {results['cpu_model']}; float32 GEMM {rate:.0f} GFLOP/s in the same runs; "
        f"MLP data: {results['mlp_data']}; {versions}."
    )


def _family(rows: list[dict[str, Any]]) -> str:
    own = next((r for r in rows if r["library"] == "wherefrom" and r["met"]), None)
    ordered = sorted(rows, key=lambda r: (not r["met"], r["cpu"] if r["met"] else 0.0))
    return "\n".join([HEAD, *(_row(r, own) for r in ordered)])


def _row(row: dict[str, Any], own: dict[str, Any] | None) -> str:
    name = f"**{row['label']}**" if row["library"] == "wherefrom" else row["label"]
    if row["excluded"]:
        return f"| {name} | | cannot run: {row['excluded']} | | | | | | |"
    if not row["met"]:
        why = row["failure"] or f"best error {row['error']:.1e}"
        return f"| {name} | | **failed**: {why} | | | | | | |"
    settings = ", ".join(f"{k} {_number(v)}" for k, v in row["settings"].items() if k != "curvature") or "–"
    cpu_ratio = f"{row['cpu'] / own['cpu']:.2f}" if own else "–"
    memory_ratio = f"{row['peak_mib'] / own['peak_mib']:.2f}" if own and own["peak_mib"] > 0 else "–"
    floor = f"{row['cpu'] / row['floor_seconds']:.1f}" if row["floor_seconds"] else "–"
    error = f"{row['error']:.1e} ({row['error_median']:.1e})"
    cells = (
        name,
        settings,
        error,
        _digits(row["cpu"]),
        cpu_ratio,
        floor,
        f"{row['peak_mib']:.0f}",
        memory_ratio,
    )
    return f"| {' | '.join(cells)} | {row['runs']} |"


def _digits(seconds: float) -> str:
    return f"{seconds:.3f}" if seconds < 1 else f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
