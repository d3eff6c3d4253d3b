"""The benchmark's tables, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wherefrom.studies.labels.evaluation import SHARES

_SHARES = tuple(str(share) for share in SHARES)
# Rankings in the order of the table; the others are in results.json.
_ROWS = {
    "wherefrom combined": "**wherefrom: combined**",
    "wherefrom combined without validation": "**wherefrom: combined, no validation set**",
    "wherefrom left_out_margin": "wherefrom: left-out margin",
    "wherefrom left_out_loss": "wherefrom: left-out loss",
    "wherefrom self_influence": "wherefrom: self-influence",
    "wherefrom harm": "wherefrom: harm †",
    "wherefrom relative_harm": "wherefrom: relative harm †",
    "wherefrom relabel": "wherefrom: relabel influence †",
    "wherefrom margin": "margin of the model",
    "wherefrom loss": "loss of the model",
    "cleanlab in_sample_self_confidence": "cleanlab, in-sample: self-confidence",
    "cleanlab in_sample_normalized_margin": "cleanlab, in-sample: normalised margin",
    "cleanlab in_sample_entropy": "cleanlab, in-sample: confidence-weighted entropy",
    "cleanlab in_sample_adjusted_margin": "cleanlab, in-sample: adjusted margin",
    "cleanlab cross_validated_self_confidence": "cleanlab, cross-validated: self-confidence",
    "cleanlab cross_validated_normalized_margin": "cleanlab, cross-validated: normalised margin",
    "cleanlab cross_validated_entropy": "cleanlab, cross-validated: confidence-weighted entropy",
    "cleanlab cross_validated_adjusted_margin": "cleanlab, cross-validated: adjusted margin",
    "cleanlab left_out_adjusted_margin": "cleanlab on wherefrom's left-out probabilities: adjusted margin",
}

_MAIN = (
    "wherefrom combined",
    "wherefrom combined without validation",
    "wherefrom left_out_loss",
    "wherefrom left_out_margin",
    "wherefrom self_influence",
    "wherefrom harm",
    "wherefrom relabel",
    "wherefrom loss",
    "wherefrom margin",
    "cleanlab cross_validated_self_confidence",
    "cleanlab cross_validated_normalized_margin",
)


def render(runs: Sequence[dict[str, Any]]) -> str:
    """The average precision of the main rankings, a table of all for each setting, and one of proposals."""
    keys = list(dict.fromkeys(run["setting"] for run in runs))
    groups = [[run for run in runs if run["setting"] == key] for key in keys]
    parts = [_overview(groups), *map(_setting, groups), _proposals(groups)]
    return "\n\n".join(parts) + "\n"


def _overview(groups: Sequence[Sequence[dict[str, Any]]]) -> str:
    words = [runs[0]["words"] for runs in groups]
    lines = [
        "### Average precision",
        "",
        "| ranking | " + " | ".join(words) + " |",
        "| --- |" + " --- |" * len(words),
    ]
    for name in _MAIN:
        if any(name not in runs[0]["rankings"] for runs in groups):
            continue  # nothing was computed of cleanlab
        cells = [_with_error(runs, name, "average_precision") for runs in groups]
        lines.append(f"| {_ROWS[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _setting(runs: Sequence[dict[str, Any]]) -> str:
    first = runs[0]
    facts = (
        f"n = {first['n']:,}, {first['features']:,} features, weight decay {first['weight_decay']:g}, "
        f"{100 * _mean(runs, lambda run: run['wrong']):.0f} % of the labels wrong; accuracy "
        f"{100 * _mean(runs, lambda run: run['accuracy']):.1f} % on test data, "
        f"{100 * _mean(runs, lambda run: run['train_accuracy']):.1f} % on the given labels; "
        f"{_mean(runs, lambda run: run['seconds']['train']):.0f} s of training, "
        f"{_mean(runs, lambda run: run['seconds']['signals']):.0f} s for wherefrom's signals (CPU). "
    )
    facts += f"{len(runs)} seeds." if len(runs) > 1 else "One data set: ± over resampled examples."
    shares = " | ".join(f"{100 * float(share):.0f} %" for share in _SHARES)
    lines = [
        f"### {first['words']}",
        facts,
        "",
        f"| ranking | AUROC | average precision | {shares} |",
        "| --- | --- | --- |" + " --- |" * len(_SHARES),
    ]
    for name, words in _ROWS.items():
        if name not in first["rankings"]:
            continue
        cells = [_with_error(runs, name, "auroc"), _with_error(runs, name, "average_precision")]
        for share in _SHARES:
            found = [run["rankings"][name]["found"][share] for run in runs]
            cells.append(f"{np.mean(found):.2f}")
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _proposals(groups: Sequence[Sequence[dict[str, Any]]]) -> str:
    names = list(groups[0][0]["proposals"])
    lines = [
        "### Proposed labels",
        "Share of the wrong labels that the proposal sets right / of the right ones that it keeps, in %.",
        "",
        "| setting | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for runs in groups:
        cells = []
        for name in names:
            fixed = _mean(runs, lambda run, n=name: run["proposals"][n]["wrong_made_right"])
            kept = _mean(runs, lambda run, n=name: run["proposals"][n]["right_kept"])
            cells.append(f"{100 * fixed:.0f} / {100 * kept:.0f}")
        lines.append(f"| {runs[0]['words']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _with_error(runs: Sequence[dict[str, Any]], name: str, measure: str) -> str:
    """Mean over seeds with its standard error; for one run, the error over resampled examples."""
    values = [run["rankings"][name][measure] for run in runs]
    error = (
        float(np.std(values, ddof=1) / len(values) ** 0.5)
        if len(values) > 1
        else runs[0]["rankings"][name].get("resampled_error", {}).get(measure, math.nan)
    )
    return f"{np.mean(values):.3f} ± {error:.3f}"


def _mean(runs: Sequence[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return float(np.mean([value(run) for run in runs]))
