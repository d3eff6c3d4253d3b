"""How scores were made layer by layer: coverage, damping and the contraction plan of each block, in words and
numbers for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherefrom.gradients import Coverage
from wherefrom.gradients.sites import FALLBACK
from wherefrom.layers.plain_module import PlainModuleRule
from wherefrom.plain_text import count_of
from wherefrom.report.blocks import Cell, Column, Columns, PageBlock, Table, Words
from wherefrom.report.numbers import number, quantity
from wherefrom.report.sections import ReportSection

_ALONE = "inverts the curvature of each layer alone: what couples one layer with another is left out."
_LEFT_OUT = {
    "ekfac": f"EK-FAC {_ALONE} Within a layer it keeps the best diagonal in the eigenbasis of two small "
    "matrices, the second moments of the layer's inputs and of its output gradients; what lies off that "
    "diagonal is left out too.",
    "kfac": f"K-FAC {_ALONE} Within a layer it takes inputs and output gradients to be independent, so that "
    "the curvature is a product of two small matrices, their second moments.",
    "diagonal": "Only the diagonal of the curvature is inverted: whatever couples two parameters is left "
    "out, within a layer and between layers.",
    "identity": "No curvature at all: each score is the inner product of two gradients. A baseline.",
}
_METHODS = {"gram": "Gram products"}
# Blocks of modules without a rule of their own: one explicit gradient per example.
_EXPLICIT = (FALLBACK, PlainModuleRule.name)
# Blocks open on the page. In the terminal: blocks, remarks, and characters of a name.
_OPEN, _COSTLIEST, _REMARKS, _NAME = 24, 12, 4, 18


@dataclass(frozen=True)
class LayerRow:
    """One block of parameters, as a reader sees it.

    Attributes:
        name: of the block.
        rule: by which its gradients are taken; empty where that is not known.
        parameters: names.
        size: number of parameters.
        matrix: `"o × i"`, with the number of groups in front where there are several.
        damping: `λ`.
        positions: of a training gradient.
        method: of the contraction.
        rank: of the expansion, with the entries beside it, or of the queries; empty where the contraction is
            exact.
        operations, bytes: predicted for all scores.
        cost: the operations as a number, to order by.
        reason: why not by a rule, or what is special; empty otherwise.
    """

    name: str
    rule: str
    parameters: tuple[str, ...]
    size: int
    matrix: str
    damping: str
    positions: int
    method: str
    rank: str
    operations: str
    bytes: str
    cost: float
    reason: str


@dataclass(frozen=True)
class LayerReport:
    """What a reader learns of scores that were made layer by layer.

    Attributes:
        left_out: what the approximation leaves out, in plain words.
        distance: how far the scores are from the full curvature's, in plain words.
        damping: how it was chosen.
        contraction: predicted cost and measured error, in plain words.
        rows: one per block.
        remarks: `(block, words)` of those that are attributed in a special way, explicit gradients above all.
        labels: where the gradients behind the curvature came from.
    """

    left_out: str
    distance: str
    damping: str
    contraction: str
    rows: tuple[LayerRow, ...]
    remarks: tuple[tuple[str, str], ...]
    labels: str


def layer_report(section: ReportSection) -> LayerReport | None:
    """Of a section whose solver treats layers apart; `None` for other solvers."""
    settings, plan = section.settings, section.scores.plan
    if plan is None:
        return None
    solver = str(settings.get("solver", ""))
    coverage = {row.block: row for row in section.coverage}
    rows = tuple(_row(block, coverage.get(block["block"]), settings) for block in plan["blocks"])
    notes = settings.get("solver_notes") or {}
    return LayerReport(
        left_out=_LEFT_OUT.get(solver, "The curvature of each layer is inverted alone."),
        distance=distance_words(section),
        damping=str(settings.get("damping_reason", "")),
        contraction=_contraction(plan, settings.get("score_rtol", plan["rtol"])),
        rows=rows,
        remarks=tuple((row.name, _remark(row)) for row in rows if row.reason or row.rule in _EXPLICIT),
        labels=str(notes.get("labels", "")) if solver != "identity" else "",
    )


def layer_blocks(section: ReportSection) -> list[PageBlock]:
    """The same for people; none for other solvers."""
    report = layer_report(section)
    if report is None:
        return []
    notes = [("What is left out.", f"{report.left_out} {report.distance}")]
    notes += [("Curvature.", f"Gathered from: {report.labels}.")] if report.labels else []
    notes += [("Damping λ.", f"{report.damping[0].upper()}{report.damping[1:]}.")] if report.damping else []
    notes.append(("Contraction.", report.contraction))
    words = f"{count_of(len(report.rows), 'block')} of parameters: how each was attributed and contracted"
    folded = words if len(report.rows) > _OPEN else ""
    costliest = sorted(report.rows, key=lambda row: -row.cost)[:_COSTLIEST]
    left, rest = len(report.rows) - len(costliest), report.remarks[_REMARKS:]
    hidden = f"and {left} cheaper ones, listed on the page" if left else ""
    blocks: list[PageBlock] = [
        Columns(notes, heading="Layer by layer"),
        _table(report.rows, note="" if folded else f"{words}.", folded=folded, where="page"),
        _table([row for row in report.rows if row in costliest], note=hidden, where="terminal"),
    ]
    if report.remarks:
        blocks.append(Columns(report.remarks[:_REMARKS]))
    if rest:
        blocks.append(Columns(rest, where="page"))
        blocks.append(Words(f"and {len(rest)} more such remarks", tone="muted", where="terminal"))
    return blocks


def _table(rows: Sequence[LayerRow], **options: Any) -> Table:
    columns = [
        Column("layer", left=True, code=True, width=_NAME),
        Column("rule", left=True, width=12),
        Column("parameters", where="page"),
        Column("matrix", where="page"),
        Column("λ"),
        Column("positions", where="page"),
        Column("by", left=True, note="how contracted"),
        Column("rank"),
        Column("flop", note="operations"),
        Column("bytes"),
    ]
    # What tells one layer from another is mostly the end of its name.
    short = options["where"] == "terminal"
    cells: list[list[str | Cell]] = [
        [
            Cell(
                f"…{row.name[1 - _NAME :]}" if short and len(row.name) > _NAME else row.name,
                hint=", ".join(row.parameters),
            ),
            row.rule,
            f"{row.size:,}",
            row.matrix,
            row.damping,
            f"{row.positions:,}",
            row.method,
            row.rank,
            row.operations,
            row.bytes,
        ]
        for row in rows
    ]
    return Table(columns, cells, **options)


def distance_words(section: ReportSection) -> str:
    """How far the scores are from those of the full damped curvature, in one or two sentences."""
    distance = section.scores.distance
    if section.settings.get("solver") == "identity":
        return "How far these scores are from those of an inverse curvature is not measured."
    if distance is None:
        return "How far these scores are from those of the full curvature was not measured (probes=0)."
    probes = min(int(section.settings.get("probes", len(section.scores))), len(section.scores))
    asked = "one of the queries" if probes == 1 else f"{probes} of the queries"
    return (
        f"Probed on {asked}: with the full curvature and the same damping the scores would differ by about "
        f"{relative_size(distance)} of their own size. This is no distance to retraining: it does not say "
        "which of the two agrees better with it."
    )


def relative_size(distance: float) -> str:
    """A relative error as people read it."""
    # The number and its sign are never broken apart.
    return (
        f"{number(100 * distance, 2)}\N{NO-BREAK SPACE}%"
        if 1e-3 <= distance < 2
        else f"{number(distance, 2)} times"
    )


def _row(block: Mapping[str, Any], covered: Coverage | None, settings: Mapping[str, Any]) -> LayerRow:
    g, o, i = block["shape"]
    rank, entries = block.get("rank", 0), block.get("entries", 0)
    ranked = block["method"] in ("low rank", "query rank")
    amount = (settings.get("damping_per_block") or {}).get(block["block"], settings.get("damping"))
    return LayerRow(
        name=block["block"],
        rule="" if covered is None else covered.rule,
        parameters=() if covered is None else covered.parameters,
        size=g * o * i if covered is None else covered.size,
        matrix=f"{o} × {i}" if g == 1 else f"{g} × {o} × {i}",
        damping="–" if amount is None or settings.get("solver") == "identity" else number(float(amount), 2),
        positions=block["positions"],
        method=_METHODS.get(block["method"], block["method"]),
        rank=(f"{rank}+{entries}" if entries else str(rank)) if ranked else "",
        operations=quantity(block["operations"]),
        bytes=quantity(block["bytes"]),
        cost=float(block["operations"]),
        reason="" if covered is None else covered.reason,
    )


def _approximate(block: Mapping[str, Any]) -> bool:
    """Whether the contraction of a block may be off by more than rounding."""
    return block["method"] == "low rank" or block.get("tolerance", 0.0) > 0


def _remark(row: LayerRow) -> str:
    if row.rule not in _EXPLICIT:
        return row.reason
    names = ", ".join(row.parameters[:3]) + (", …" if len(row.parameters) > 3 else "")
    return f"explicit gradients of {names}" + (f": {row.reason}" if row.reason else "")


def _contraction(plan: Mapping[str, Any], allowed: float) -> str:
    words = (
        f"{plan['queries']:,} queries × {plan['train']:,} training examples: predicted "
        f"{quantity(plan['operations'])}flop, {quantity(plan['bytes'])}B moved."
    )
    if not any(_approximate(block) for block in plan["blocks"]):
        return f"{words} Every block is contracted exactly, up to rounding."
    q, n = plan["measured_on"]
    return (
        f"{words} The approximate blocks change a query's scores by {number(plan['measured_error'], 2)} of "
        f"their size, {number(plan['worst_error'], 2)} at worst (measured on {q} queries × {n} training "
        f"examples; allowed: {number(allowed, 1)})."
    )
