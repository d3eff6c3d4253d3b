"""How scores were made layer by layer: coverage, damping and the contraction plan of each block, in words and
numbers for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
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


_COLUMNS = (
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
)


def layer_blocks(section: ReportSection) -> list[PageBlock]:
    """Of a section whose solver treats layers apart: what the approximation leaves out and how far that is
    from the full curvature, damping, cost, and a row for each block; none for other solvers."""
    settings, plan = section.settings, section.scores.plan
    if plan is None:
        return []
    solver, coverage = str(settings.get("solver", "")), {row.block: row for row in section.coverage}
    left_out = _LEFT_OUT.get(solver, "The curvature of each layer is inverted alone.")
    labels = (settings.get("solver_notes") or {}).get("labels") if solver != "identity" else None
    damping = str(settings.get("damping_reason", ""))
    notes = [("What is left out.", f"{left_out} {distance_words(section)}")]
    notes += [("Curvature.", f"Gathered from: {labels}.")] if labels else []
    notes += [("Damping λ.", f"{damping[0].upper()}{damping[1:]}.")] if damping else []
    notes.append(("Contraction.", _contraction(plan, settings.get("score_rtol", plan["rtol"]))))
    each = plan["blocks"]
    rows = [_row(block, coverage.get(block["block"]), settings) for block in each]
    words = f"{count_of(len(rows), 'block')} of parameters: how each was attributed and contracted"
    folded = words if len(rows) > _OPEN else ""
    costliest = sorted(range(len(rows)), key=lambda k: -each[k]["operations"])[:_COSTLIEST]
    hidden = len(rows) - len(costliest)
    blocks: list[PageBlock] = [
        Columns(notes, heading="Layer by layer"),
        Table(_COLUMNS, rows, note="" if folded else f"{words}.", folded=folded, where="page"),
        Table(
            _COLUMNS,
            [[_end(each[k]["block"]), *rows[k][1:]] for k in sorted(costliest)],
            note=f"and {hidden} cheaper ones, listed on the page" if hidden else "",
            where="terminal",
        ),
    ]
    remarks = [
        (name, _remark(covered))
        for name in (block["block"] for block in each)
        if (covered := coverage.get(name)) and (covered.reason or covered.rule in _EXPLICIT)
    ]
    if remarks:
        blocks.append(Columns(remarks[:_REMARKS]))
    if remarks[_REMARKS:]:
        rest = len(remarks) - _REMARKS
        blocks.append(Columns(remarks[_REMARKS:], where="page"))
        blocks.append(Words(f"and {rest} more such remarks", tone="muted", where="terminal"))
    return blocks


def _end(name: str) -> str:
    """What tells one layer from another is mostly the end of its name."""
    return f"…{name[1 - _NAME :]}" if len(name) > _NAME else name


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


def _row(block: Mapping[str, Any], covered: Coverage | None, settings: Mapping[str, Any]) -> list[str | Cell]:
    """The cells of one block of parameters; the rank is empty where the contraction is exact."""
    g, o, i = block["shape"]
    rank, entries = block.get("rank", 0), block.get("entries", 0)
    ranked = block["method"] in ("low rank", "query rank")
    amount = (settings.get("damping_per_block") or {}).get(block["block"], settings.get("damping"))
    return [
        Cell(block["block"], hint="" if covered is None else ", ".join(covered.parameters)),
        "" if covered is None else covered.rule,
        f"{g * o * i if covered is None else covered.size:,}",
        f"{o} × {i}" if g == 1 else f"{g} × {o} × {i}",
        "–" if amount is None or settings.get("solver") == "identity" else number(float(amount), 2),
        f"{block['positions']:,}",
        _METHODS.get(block["method"], block["method"]),
        (f"{rank}+{entries}" if entries else str(rank)) if ranked else "",
        quantity(block["operations"]),
        quantity(block["bytes"]),
    ]


def _approximate(block: Mapping[str, Any]) -> bool:
    """Whether the contraction of a block may be off by more than rounding."""
    return block["method"] == "low rank" or block.get("tolerance", 0.0) > 0


def _remark(row: Coverage) -> str:
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
