"""What people see of a change of the training data: each query's prediction beside what retraining did, and
the curve of a group that grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wherefrom.influence import unresolved
from wherefrom.interventions import Outcome, RemovalCurve
from wherefrom.percentages import percentage
from wherefrom.report import Beside, Cards, Cell, Chart, Column, Columns, Facts, Shown, Table, Words
from wherefrom.report.blocks import Tone
from wherefrom.report.charts import Tick, actual_chart, against_actual, nice_ticks
from wherefrom.report.numbers import number

if TYPE_CHECKING:
    from wherefrom.studies.change.study import ChangeResult

# Edited examples shown on the page.
_CARDS = 12
_ORDERS = {
    "first": "to first order",
    "second": "to second order",
    "newton": "by one Newton step",
    "optimum": "by steps to the new optimum",
}
_WIDEST = 12
# One more step that would add more than this share of a prediction stands out.
_FAR = 0.1
# The series of the curve: head, colour, how it is drawn.
_SERIES: dict[str, tuple[str, Tone, str]] = {
    "first_order": ("first order", "muted", "dashed"),
    "predicted": ("predicted", "helpful", "line"),
    "actual": ("retrained", "good", "rings"),
}
_WIDTH, _HEIGHT = 420.0, 230.0


def change_blocks(result: ChangeResult) -> list[Any]:
    """The answer: in words, for each query, for growing groups, and what was edited."""
    change, outcome = result.change, result.outcome
    done = change.words_done[:1].upper() + change.words_done[1:]
    how = f"Change of the {change.measurement}, predicted {_ORDERS[change.order]}."
    blocks: list[Any] = [Words(how, heading=done), Words(change.words, tone=change.level)]
    if outcome is not None:
        blocks.append(Words(outcome.words))
    table = _queries(result)
    if outcome is not None and outcome.seeds:
        blocks += [Facts(_numbers(outcome)), Beside([table, _scatter(result, outcome)])]
    else:
        blocks.append(table)
    if unresolved := _unresolved(result):
        blocks.append(Words(unresolved, tone="muted", where="terminal"))
    if result.curve is not None:
        blocks += growth_blocks(result.curve)
    if result.edited:
        blocks.append(_edited(result))
        if len(result.edited) > _CARDS:
            blocks.append(Words(f"and {len(result.edited) - _CARDS} more", tone="muted", where="page"))
    notes = _notes(result)
    said = "\n".join(f"{name.lower()}: {text}" for name, text in notes["both"])
    blocks.append(Words(said, tone="muted", where="terminal"))
    blocks.append(Columns([(f"{name}:", text) for name, text in notes["page"] + notes["both"]], where="page"))
    return blocks


def step_words(remaining: float, value: float) -> str:
    """What one more step would add, or that it is nothing beside the prediction."""
    return "none" if abs(remaining) <= 1e-6 * abs(value) else number(remaining, 2, sign=True)


def _queries(result: ChangeResult) -> Table:
    change, outcome = result.change, result.outcome
    sizes = [*change.values.abs().tolist(), *([] if outcome is None else np.abs(outcome.actual).tolist())]
    reach = max((size for size in sizes if math.isfinite(size)), default=0.0) or 1.0
    columns = [
        Column("query", where="terminal"),
        Column("label", left=True, width=_WIDEST, where="terminal"),
        Column("query", left=True, where="page"),
        Column(f"{change.measurement} now", width=_WIDEST + 4),
        Column("predicted", tone="helpful", signed=True),
        Column("one more step"),
        *([] if outcome is None else [Column("retrained", tone="good", signed=True)]),
    ]
    rows: list[list[str | Cell]] = []
    for q, asked in enumerate(result.numbers):
        card, value = result.query_card(q), float(change.values[q])
        wrong = card.predicted is not None and card.predicted != card.label
        row: list[str | Cell] = [
            str(asked),
            card.label or "",
            Cell(
                card.title or f"query {asked}",
                "strong",
                note=(card.label or "") + (f", predicted {card.predicted}" if card.label and wrong else ""),
                card=card,
            ),
            number(float(result.before[q]), 3),
            Cell(number(value, 3, sign=True), "strong", bar=value / reach, doubt=change.resolution(q).reason),
            Cell(step_words(float(change.remaining[q]), value), "muted"),
        ]
        if outcome is not None:
            actual, noise = float(outcome.actual[q]), float(outcome.noise[q])
            text = number(actual, 3, sign=True)
            if noise > 0 and math.isfinite(noise):
                text += f" ± {number(noise, 1)}"
            row.append(Cell(text, bar=actual / reach if math.isfinite(actual) else None))
        rows.append(row)
    return Table(columns, rows, shown=len(rows))


def _unresolved(result: ChangeResult) -> str:
    """What the marks of the terminal mean, and why they stand there."""
    count, said = unresolved(result.change.resolution(q) for q in range(len(result.change)))
    return f"?: not resolved, neither size nor sign is to be read. Because {said}" if count else ""


def _numbers(outcome: Outcome) -> list[tuple[str, str]]:
    shown = [
        ("relative error", percentage(outcome.relative_error)),
        ("Pearson", number(outcome.pearson(), 4)),
        ("slope", number(outcome.slope(), 3)),
        ("seeds", str(len(outcome.seeds))),
    ]
    return [(name, text) for name, text in shown if text not in ("–", "nan %")]


def _scatter(result: ChangeResult, outcome: Outcome) -> Chart:
    titles = [result.query_card(q).title or f"query {asked}" for q, asked in enumerate(result.numbers)]
    plot = against_actual(outcome.predicted, outcome.actual, np.nan_to_num(outcome.noise), titles)
    caption = "Each dot is a query. On the line, the prediction is exact."
    if bool((outcome.noise > 0).any()):
        caption += " Vertical bars: noise of training (standard error)."
    return actual_chart(plot, caption, where="page")


def _edited(result: ChangeResult) -> Cards:
    entries = [Shown(result.train_card(one.index), [(one.done, "")]) for one in result.edited[:_CARDS]]
    return Cards(entries, dense=True, heading="What was edited", where="page")


def _notes(result: ChangeResult) -> dict[str, list[tuple[str, str]]]:
    change, outcome = result.change, result.outcome
    weighting = (
        "averages the loss over the examples that are left"
        if change.reduction == "mean"
        else "keeps the weight 1/n of every other example"
    )
    page = [
        (
            "The prediction",
            f"made {_ORDERS[change.order]} from the trained model, for a recipe that {weighting}. A positive "
            f"change is a rise of the {change.measurement}.",
        )
    ]
    both = [
        (
            "One more step",
            "what a further step towards the optimum of the edited data would add: the error of having "
            "stopped early, and no other. Where it is large beside the prediction, only retraining tells.",
        )
    ]
    if outcome is not None:
        several = f", mean over {len(outcome.seeds)} seeds" if len(outcome.seeds) > 1 else ""
        both.append(("Retrained", f"after training on the edited data, minus on the given data{several}."))
    return {"page": page, "both": both}


def growth_blocks(curve: RemovalCurve) -> list[Any]:
    """What removing the first few, and then more, of a ranking does: the mean change over the queries to
    first order, as predicted, and as retrained where a recipe carried it out."""
    table = curve.to_pandas()
    series = {name: table[name].to_numpy(dtype=float) for name in _SERIES if name in table}
    same = series["first_order"].tolist() == series["predicted"].tolist()
    reasons = [change.mean_resolution().reason for change in curve.changes]
    words = (
        "The first so many training examples of the list are removed together. Mean change of the "
        f"{curve.changes[0].measurement} over the queries "
        f"{'' if same else 'by the sum of single scores (first order), '}as predicted"
        f"{', and after retraining without them' if 'actual' in series else ''}."
    )
    if curve.trusted:
        words += f" Up to {curve.trusted} examples, one more step would change no more than a tenth of the "
        words += "prediction."
    if any(reasons):
        words += " Grey, or with a question mark: not resolved; neither size nor sign is to be read."
    columns = [
        Column("removed"),
        *(Column(_SERIES[name][0]) for name in series),
        Column("one more step"),
    ]
    rows: list[list[str | Cell]] = []
    for at, (size, change) in enumerate(zip(curve.sizes, curve.changes)):
        doubts = {"first_order": reasons[at] and "as the prediction", "predicted": reasons[at]}
        rows.append(
            [
                f"{size:,}",
                *(
                    Cell(number(float(values[at]), 3, sign=True), doubt=doubts.get(name, ""))
                    for name, values in series.items()
                ),
                Cell(percentage(change.left_over), "poor" if change.left_over > _FAR else "muted"),
            ]
        )
    shown = Table(columns, rows, shown=len(rows))
    chart = [_curve(curve.sizes, series, same)] if len(curve.sizes) > 1 else []
    return [Words(words, heading="As the group grows"), Beside([*chart, shown])]


def _curve(sizes: Sequence[int], series: dict[str, np.ndarray], same: bool) -> Chart:
    everything = np.concatenate([values[np.isfinite(values)] for values in series.values()])
    low, high = min(0.0, float(everything.min())), max(0.0, float(everything.max()))
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    last = max(sizes)

    def at(size: float | int, value: float | int) -> tuple[float, float]:
        return size / last * _WIDTH, _HEIGHT * (high - value) / (high - low)

    drawn = [name for name in series if not (same and name == "first_order")]
    lines = [
        {
            "tone": _SERIES[name][1],
            "style": _SERIES[name][2],
            "points": [at(size, float(v)) for size, v in zip(sizes, series[name]) if np.isfinite(v)],
        }
        for name in drawn
    ]
    values = {
        "label": "Mean change against the number removed",
        "across": "training examples removed",
        "width": _WIDTH,
        "height": _HEIGHT,
        "lines": lines,
        "ticks_x": [Tick(at(t, 0)[0], f"{t:g}") for t in nice_ticks(0.0, float(last), 5)],
        "ticks_y": [Tick(at(0, t)[1], number(t, 2)) for t in nice_ticks(low, high, 5)],
    }
    keys = [(_SERIES[name][0], _SERIES[name][1]) for name in drawn]
    return Chart("lines.html.j2", values, keys=keys, where="page")
