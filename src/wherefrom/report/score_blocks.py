"""What people see of the scores of one model: verdicts, queries with their examples, charts, settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from wherefrom.influence import Ranking
from wherefrom.report.blocks import (
    Beside,
    Cards,
    Chart,
    Column,
    Columns,
    PageBlock,
    Shown,
    Table,
    Tone,
    Verdicts,
    Words,
)
from wherefrom.report.card_view import predicted_runs, scale_words
from wherefrom.report.cards import Card
from wherefrom.report.charts import actual_chart, histogram, scatter
from wherefrom.report.layers import layer_blocks
from wherefrom.report.numbers import error_beside, number, shown_error
from wherefrom.report.reading import how_to_read
from wherefrom.report.sections import ReportSection
from wherefrom.report.verdicts import resolution, verdicts

_COVERAGE = {
    "parameters": "Studied: scores account for these.",
    "frozen": "Frozen: held fixed, do not require gradients.",
    "unselected": "Not selected: held fixed by the choice of parameters.",
}
# Shown layer by layer.
_LAYERED = ("damping_per_block",)
_METHODS = {
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
# Examples of a ranking, and queries, in the terminal.
_EXAMPLES, _QUERIES = 3, 1


def score_blocks(section: ReportSection) -> list[PageBlock]:
    """All of it, in order; further blocks of the section stand after the examples to review."""
    cards = [section.query_card(q) for q in range(len(section.scores))]
    queries = [_query(section, q, card) for q, card in enumerate(cards)]
    names = [card.title or f"query {q}" for q, card in enumerate(cards)]
    note = "removal: predicted change of the query's measurement without that example"
    shown = [row for ranking in _rankings(section, 0) for row in list(ranking)[:_EXAMPLES]]
    if not section.sized:
        note = "an order of likeness: these scores have no size and predict no change"
    elif not all(section.removal(0, row).resolved for row in shown):
        note += ";\n?: not resolved against its errors, see the page"
    return [
        Verdicts(verdicts(section)),
        Cards(queries, shown=_QUERIES, heading="Predictions and where they came from"),
        Words(note, tone="muted", where="terminal"),
        Beside(_charts(section, names), where="page"),
        *_review(section),
        *section.blocks,
        Columns(how_to_read(section), heading="How to read this", where="page"),
        *layer_blocks(section),
        *_covered(section.settings),
        Table(
            [Column("setting", left=True), Column("value", left=True)],
            [list(row) for row in _flat(section.settings)],
            folded="All settings",
            where="page",
        ),
    ]


def score_facts(section: ReportSection) -> list[tuple[str, str]]:
    """`(name, value)`, those of the section first."""
    settings = section.settings
    facts = list(section.facts)
    scale = getattr(section.train_card, "scale", None)
    if scale is not None:
        facts.append(("Pictures", scale_words(scale)))
    facts.append(("Training examples", f"{section.scores.n_train:,}"))
    if "p" in settings:
        facts.append(("Parameters studied", f"{settings['p']:,}"))
    for name in ("curvature", "solver"):
        if name in settings:
            value = str(settings[name])
            facts.append((name.capitalize(), _METHODS.get(value, value.replace("_", " ").capitalize())))
    if not section.solved and "method" in settings:
        facts.append(("Method", str(settings["method"])))
    if settings.get("damping_per_block"):
        amounts = settings["damping_per_block"].values()
        low, high = number(min(amounts), 2), number(max(amounts), 2)
        facts.append(("Damping", low if low == high else f"{low} to {high}, by layer"))
    elif "damping" in settings:
        facts.append(("Damping", number(abs(float(settings["damping"])), 3)))
    return facts


def _query(section: ReportSection, q: int, card: Card) -> Shown:
    """The prediction, and beside it the examples that helped and harmed it."""
    rankings = _rankings(section, q)
    largest = max([abs(float(s)) for ranking in rankings for s in ranking.score] or [1.0]) or 1.0
    true = "True value" if card.probability is None else "True label"
    return Shown(
        card,
        predicted_runs(card, "Predicted"),
        [] if card.label is None else [(true, card.label)],
        words="" if bool(section.scores.converged[q]) else "The solver did not converge for this query.",
        blocks=[_ranked(section, q, ranking, largest) for ranking in rankings],
    )


def _rankings(section: ReportSection, q: int) -> tuple[Ranking, Ranking]:
    return section.scores.helpful(section.top, q), section.scores.harmful(section.top, q)


def _ranked(section: ReportSection, q: int, ranking: Ranking, largest: float) -> Cards:
    helpful = ranking.kind == "helpful"
    fine, name = resolution(section), section.scores.measurement
    proven = "cannot exceed" if section.scores.bound_proven else "is not expected to exceed"
    if not section.sized:
        hint = f"{'highest' if helpful else 'lowest'} in this order"
    elif name == "loss":
        hint = f"removing one {'raises' if helpful else 'lowers'} the loss"
    else:
        hint = f"removing one makes it {'worse' if helpful else 'better'}"
    entries = []
    for row in ranking:
        # A query may have fewer helpful examples than are asked for: a harmful one is never called helpful.
        if (row["score"] > 0) != (helpful != section.scores.higher_is_better):
            continue
        found = section.removal(q, row)
        error = error_beside(shown_error(row["error"], row["bound"], row["score"], fine))
        bound = f"The solver's error {proven} {number(row['bound'], 2)}"
        if not math.isfinite(row["bound"]):
            bound = f"No bound on the {'solver' if section.solved else 'method'}'s error is known"
        entries.append(
            Shown(
                section.train_card(row["train"]),
                [(number(row["score"], sign=True), ""), (error, "muted")],
                share=abs(row["score"]) / largest,
                tone="helpful" if helpful else "harmful",
                words=_removal(section, q, row, found.resolved) if section.sized else "",
                doubt=found.reason if section.sized else "",
                hint=bound,
            )
        )
    return Cards(
        entries,
        _EXAMPLES,
        "None: no training example has such a score.",
        dense=True,
        heading=f"Most {ranking.kind}: {hint}",
    )


def _removal(section: ReportSection, q: int, row: Mapping[str, Any], resolved: bool) -> str:
    words = f"removal: {number(row['predicted_change'], 3, sign=True)}"
    if section.now is None:
        return words
    now, name = float(section.now[q]), section.scores.measurement
    if not resolved:
        return f"{words} ({name} now {number(now, 3)})"
    return f"{words} ({name} {number(now, 4)} → {number(now + row['predicted_change'], 4)})"


def _charts(section: ReportSection, names: list[str]) -> list[PageBlock]:
    scores, check = section.scores, section.verification
    plot = None if check is None else scatter(check, names)
    charts: list[PageBlock] = []
    if check is not None and plot is not None:
        caption = [
            "Each dot: one training example removed, the model retrained, one query measured "
            f"({len(check.removed)} removals × {check.predicted.shape[1]} queries, {check.estimand})."
        ]
        if not section.sized:
            caption.append("These scores have no size: only the order of the dots from left to right counts.")
        else:
            weights = "keeps the weights 1/n of the examples left, so the prediction is score/n"
            if check.reduction == "mean":
                weights = "averages the loss over the examples left, so the prediction is "
                weights += "(score − mean score)/(n − 1)"
            caption.append(f"On the line, the prediction is exact. The recipe {weights}.")
        if bool((check.noise > 0).any()):
            several = f"standard error over {len(check.seeds)} seeds"
            most = several if len(check.seeds) > 1 else "the most that the noise of training can be"
            caption.append(f"Vertical bars: {most}.")
        if plot.left_out:
            caption.append(f"{plot.left_out} dots of smallest prediction are not drawn.")
        gap = number(check.baseline_gap, 2)
        caption.append(f"Difference between the given model and the recipe's on all data: {gap}.")
        charts.append(actual_chart(plot, " ".join(caption)))
    words = (
        f"Every query with every one of the {scores.n_train:,} training examples. Usually most of them "
        "hardly matter to a prediction, and the few in the tails carry it."
    )
    bars = histogram(scores.to_numpy(), flip=scores.higher_is_better)
    values = {"plot": bars, "label": "Histogram of scores", "across": "score", "down": "pairs (logarithmic)"}
    keys: Sequence[tuple[str, Tone]] = [("helpful", "helpful"), ("harmful", "harmful")]
    return [*charts, Chart("histogram.html.j2", values, words, keys, heading="All scores")]


def _review(section: ReportSection) -> list[PageBlock]:
    heading = "Examples to review"
    if section.self_scores is None:
        words = section.not_ranked
        return [Words(words, heading=heading, where="page")] if words else []
    n, ranked = section.scores.n_train, len(section.self_scores)
    top = section.self_scores.top(section.review)
    largest = max([value for _, value in top] or [1.0]) or 1.0
    words = (
        "The training examples that rest most on themselves (self-influence): hard to predict from the "
        "others. Wrong labels gather here, and so do rare but correct examples. A person should look from "
        "the top."
    )
    if ranked < n:
        words += f" Ranked were {ranked:,} of the {n:,} training examples."
    entries = [
        Shown(section.train_card(i), [(number(value), "")], share=max(value, 0.0) / largest, tone="muted")
        for i, value in top
    ]
    return [Words(words, heading=heading, where="page"), Cards(entries, dense=True, where="page")]


def _covered(settings: Mapping[str, Any]) -> list[PageBlock]:
    heading = "What was covered"
    notes = [
        (words, ", ".join(map(str, settings[key])) or "none")
        for key, words in _COVERAGE.items()
        if key in settings
    ]
    if notes:
        return [Columns(notes, heading=heading, where="page")]
    words = "This method does not say which parameters its scores account for."
    return [Words(words, heading=heading, where="page")]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if prefix == "" and key in (*_COVERAGE, *_LAYERED):
            continue
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", number(value) if isinstance(value, float) else str(value)))
    return rows
