"""From results to what the template writes: no markup here, no decisions there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from wherefrom.influence import Ranking, estimand_words
from wherefrom.report.card_view import card_view, scale_words
from wherefrom.report.cards import Card
from wherefrom.report.charts import histogram, scatter
from wherefrom.report.layers import layer_report
from wherefrom.report.numbers import error_beside, number, shown_error
from wherefrom.report.sections import ReportSection
from wherefrom.report.verdicts import resolution, verdicts

_COVERAGE = ("parameters", "frozen", "unselected")
# Shown layer by layer.
_LAYERED = ("damping_per_block",)


def section_view(section: ReportSection) -> dict[str, Any]:
    """Everything the template needs for one section."""
    scores = section.scores
    cards = [section.query_card(q) for q in range(len(scores))]
    names = [card.title or f"query {q}" for q, card in enumerate(cards)]
    check = section.verification
    return {
        "name": section.name,
        "facts": _facts(section),
        "verdicts": verdicts(section),
        "queries": [_query_view(section, q, card, names[q]) for q, card in enumerate(cards)],
        "scatter": None if check is None else scatter(check, names),
        "verification": None if check is None else _verification_view(section),
        "histogram": histogram(scores.to_numpy(), flip=scores.higher_is_better),
        "review": _review_view(section),
        "ranked": 0 if section.self_scores is None else len(section.self_scores),
        "not_ranked": section.not_ranked,
        "panels": section.panels,
        "layers": layer_report(section),
        "coverage": _coverage(section.settings),
        "settings": _flatten(section.settings),
        "solved": section.solved,
        "sized": section.sized,
        "method": section.settings.get("method", ""),
        "meaning": estimand_words(scores.estimand),
        "measurement": scores.measurement,
        "higher_is_better": scores.higher_is_better,
        "n": scores.n_train,
        "bound_proven": scores.bound_proven,
        "bounded": bool(torch.isfinite(scores.bound).any()),
    }


def _facts(section: ReportSection) -> list[tuple[str, str]]:
    settings = section.settings
    facts = list(section.facts)
    scale = getattr(section.train_card, "scale", None)
    if scale is not None:
        facts.append(("Pictures", scale_words(scale)))
    facts.append(("Training examples", f"{section.scores.n_train:,}"))
    if "p" in settings:
        facts.append(("Parameters studied", f"{settings['p']:,}"))
    for name, key in (("Curvature", "curvature"), ("Solver", "solver")):
        if key in settings:
            facts.append((name, _method_name(str(settings[key]))))
    if not section.solved and "method" in settings:
        facts.append(("Method", str(settings["method"])))
    if settings.get("damping_per_block"):
        amounts = settings["damping_per_block"].values()
        low, high = number(min(amounts), 2), number(max(amounts), 2)
        facts.append(("Damping", low if low == high else f"{low} to {high}, by layer"))
    elif "damping" in settings:
        facts.append(("Damping", number(abs(float(settings["damping"])), 3)))
    return facts


def _method_name(name: str) -> str:
    known = {
        "hessian": "Hessian",
        "ggn": "Gauss-Newton",
        "fisher": "Fisher",
        "cg": "Conjugate gradients",
        "lissa": "LiSSA",
        "ekfac": "EK-FAC",
        "kfac": "K-FAC",
        "identity": "None (identity)",
        "nystrom": "Nyström",
        "datainf": "DataInf",
        "astra": "ASTRA",
    }
    return known.get(name, name.replace("_", " ").capitalize())


def _query_view(section: ReportSection, q: int, card: Card, name: str) -> dict[str, Any]:
    helpful, harmful = section.scores.helpful(section.top, q), section.scores.harmful(section.top, q)
    largest = max([abs(float(s)) for ranking in (helpful, harmful) for s in ranking.score] or [1.0]) or 1.0
    converged = bool(section.scores.converged[q])
    return {
        "name": name,
        "card": card_view(card),
        "converged": converged,
        "helpful": _ranked(section, q, helpful, largest),
        "harmful": _ranked(section, q, harmful, largest),
    }


def _ranked(section: ReportSection, q: int, ranking: Ranking, largest: float) -> list[dict[str, Any]]:
    fine = resolution(section)
    proven = "cannot exceed" if section.scores.bound_proven else "is not expected to exceed"
    entries = []
    for row in ranking:
        # A query may have fewer helpful examples than are asked for: a harmful one is never called helpful.
        if (row["score"] > 0) != ((ranking.kind == "helpful") != section.scores.higher_is_better):
            continue
        entries.append(
            {
                "card": card_view(section.train_card(row["train"])),
                "score": number(row["score"], sign=True),
                "error": error_beside(shown_error(row["error"], row["bound"], row["score"], fine)),
                "bound": f"The solver's error {proven} {number(row['bound'], 2)}"
                if math.isfinite(row["bound"])
                else f"No bound on the {'solver' if section.solved else 'method'}'s error is known",
                "change": _removal(section, q, row) if section.sized else "",
                "unresolved": section.removal(q, row).reason,
                "share": round(100 * abs(row["score"]) / largest, 1),
            }
        )
    return entries


def _removal(section: ReportSection, q: int, row: Mapping[str, Any]) -> str:
    change = number(row["predicted_change"], 3, sign=True)
    if section.now is None:
        return change
    now = float(section.now[q])
    name = section.scores.measurement
    if not section.removal(q, row).resolved:
        return f"{change} ({name} now {number(now, 3)})"
    return f"{change} ({name} {number(now, 4)} → {number(now + row['predicted_change'], 4)})"


def _verification_view(section: ReportSection) -> dict[str, Any]:
    check = section.verification
    assert check is not None
    weights = (
        "averages the loss over the examples left, so the prediction is (score − mean score)/(n − 1)"
        if check.reduction == "mean"
        else "keeps the weights 1/n of the examples left, so the prediction is score/n"
    )
    return {
        "removed": len(check.removed),
        "queries": int(check.predicted.shape[1]),
        "seeds": len(check.seeds),
        "estimand": check.estimand,
        "weights": weights,
        "gap": number(check.baseline_gap, 2),
        "failed": [(f"train {i}", reason) for i, reason in check.failed.items()],
        "noisy": bool((check.noise > 0).any()),
    }


def _review_view(section: ReportSection) -> list[dict[str, Any]]:
    if section.self_scores is None:
        return []
    top = section.self_scores.top(section.review)
    largest = max([value for _, value in top] or [1.0]) or 1.0
    return [
        {
            "card": card_view(section.train_card(i)),
            "score": number(value),
            "share": round(100 * max(value, 0.0) / largest, 1),
        }
        for i, value in top
    ]


def _coverage(settings: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    words = {
        "parameters": "Studied: scores account for these",
        "frozen": "Frozen: held fixed, do not require gradients",
        "unselected": "Not selected: held fixed by the choice of parameters",
    }
    return [(words[key], [str(name) for name in settings[key]]) for key in _COVERAGE if key in settings]


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if prefix == "" and key in (*_COVERAGE, *_LAYERED):
            continue
        if isinstance(value, Mapping):
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", number(value) if isinstance(value, float) else str(value)))
    return rows
