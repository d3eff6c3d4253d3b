"""What people see of gradients in the input and in the parameters: how they bound one another, layer by
layer, and the examples on which the model is steepest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.plain_text import count_of
from wherefrom.report import Beside, Card, Cards, Cell, Chart, Column, Shown, Table, Verdicts, Words
from wherefrom.report.blocks import Tone
from wherefrom.report.card_view import predicted_runs
from wherefrom.report.charts import Scatter, scatter_chart
from wherefrom.report.log_charts import log_scatter
from wherefrom.report.numbers import number, percent
from wherefrom.studies.geometry.bounds import GradientBounds
from wherefrom.studies.geometry.gradient_norms import GradientNorms
from wherefrom.studies.geometry.layer_rows import BoundRow, layer_rows, quantiles, violations
from wherefrom.studies.geometry.verdicts import (
    bound_verdict,
    complexity_verdict,
    steepness_verdict,
    what_it_is,
)

if TYPE_CHECKING:
    from wherefrom.studies.geometry.study import GeometryResult

# Gradients that differ by less, relative to the largest, are the same.
_SAME = 1e-5
# Of the steepest examples in the terminal.
_LISTED = 5
_WIDEST = 16
_COMPUTED = (
    "For a chain of linear layers z = W h + b with a function applied to each z, every example obeys "
    "‖∇ₓf‖² · Σ (1 + ‖h‖²) / (‖W‖₂² ‖∇ₓh‖₂²) ≤ ‖∇_θ f‖², with one term of the sum per layer. It rests on a "
    "single path from x to f through every layer and on weights that are used once. Wherefrom extends it to "
    "convolutions, in their unfolded form, and to residual blocks; weights used at several places of the "
    "model and branches that go around a layer are outside it. It holds for each example and not for the "
    "mean over a batch."
)


def geometry_blocks(result: GeometryResult) -> list[Any]:
    """Verdicts, both gradient norms of every example, the bound between them where the network has one, and
    the examples of largest input gradient."""
    norms, bounds, looked_at = result.norms, result.bounds, len(result.numbers)
    of = "" if looked_at == result.n else f" (of {result.n:,}, spread evenly)"
    blocks: list[Any] = [
        Words(
            f"{looked_at:,} training examples looked at{of}. The number whose gradients are taken: f is "
            f"{what_it_is(result.scalar)}. ∇ₓf is its gradient in the input x, ∇_θ f in the parameters θ.",
            heading="How steep in the input, how steep in the parameters",
        ),
        Verdicts(
            [
                bound_verdict(bounds, result.reason),
                steepness_verdict(norms, result.scalar),
                complexity_verdict(result.complexity),
            ]
        ),
    ]
    same = tied(norms, result.top)
    steepest = [] if same else steepest_first(norms)[: result.top]
    charts = [] if bounds is None else _bound_chart(bounds, result.numbers)
    charts += _norms_chart(norms, result.numbers, steepest)
    if charts:
        blocks.append(Beside(charts, where="page"))
    else:
        blocks.append(
            Words(
                "No example has a gradient other than zero in both, so there is nothing to draw: f does not "
                "change with its input or its parameters here."
            )
        )
    blocks += [_parts(norms)] if bounds is None else _layers(bounds, result.reason)
    heading = "Steepest in the input"
    blocks += [Words(same, heading=heading)] if same else _steepest(result, steepest, heading)
    return [*blocks, Words(_COMPUTED, folded="What is computed", where="page")]


def tied(norms: GradientNorms, top: int) -> str:
    """Where the order of the steepest examples means nothing, in words; empty where it means something."""
    largest = float(norms.inputs.max())
    same = int((norms.inputs >= largest * (1 - _SAME)).sum())
    n = len(norms.inputs)
    if same == n and n > 1:
        return (
            f"Nothing to rank: all {n:,} examples have the same gradient in the input, up to rounding, as "
            "where f is linear in it."
        )
    if same > top:
        return (
            f"Nothing to rank at the top: {same:,} examples share the largest gradient in the input, up to "
            "rounding."
        )
    return ""


def steepest_first(norms: GradientNorms) -> list[int]:
    """Positions of the examples, those of largest input gradient first."""
    order: list[int] = norms.inputs.argsort(descending=True, stable=True).tolist()
    return order


def _bound_chart(bounds: GradientBounds, numbers: Sequence[int]) -> list[Chart]:
    left, right = bounds.left.double().cpu(), bounds.right.double().cpu()
    titles = [
        f"train {numbers[k]}: bound from the input {number(a, 3)}, gradient in the parameters {number(b, 3)}"
        for k, (a, b) in enumerate(zip(left.tolist(), right.tolist()))
    ]
    plot = log_scatter(right.numpy(), left.numpy(), titles, common=True)
    if plot is None:
        return []
    above, n = violations(bounds), len(left)
    said = (
        f"{above:,} of {n:,} dots lie above the line, which the theorem rules out: a spectral norm has not "
        "converged."
        if above
        else "Every dot lies below the line: no example's bound exceeds its gradient in the parameters. The "
        f"typical bound is {percent(quantiles(bounds.ratio, 0.5)[0])} of it."
    )
    said += " Each dot: one training example; both axes logarithmic, on the line both sides are equal."
    label = "The bound by the gradient in the input, against the squared gradient in the parameters"
    across, down = "squared gradient in the parameters", "bound from the gradient in the input"
    heading = "The bound, example by example"
    return [scatter_chart(plot, label, across, down, said + _undrawn(plot), heading=heading)]


def _norms_chart(norms: GradientNorms, numbers: Sequence[int], steepest: Sequence[int]) -> list[Chart]:
    inputs, parameters = norms.inputs.double().cpu(), norms.parameters.double().cpu()
    titles = [
        f"train {numbers[k]}: in the input {number(a, 3)}, in the parameters {number(b, 3)}"
        for k, (a, b) in enumerate(zip(inputs.tolist(), parameters.tolist()))
    ]
    plot = log_scatter(parameters.numpy(), inputs.numpy(), titles, marked=steepest)
    if plot is None:
        return []
    label = "Gradient norm in the input against gradient norm in the parameters"
    across, down = "gradient in the parameters", "gradient in the input"
    agreement = _agreement(norms)
    caption = f"{agreement}{' ' if agreement else ''}Each dot: one training example; both axes logarithmic."
    keys: list[tuple[str, Tone]] = [("steepest in the input", "harmful")] if plot.marked else []
    shown = {"keys": keys, "heading": "Input against parameters"}
    return [scatter_chart(plot, label, across, down, caption + _undrawn(plot), **shown)]


def _undrawn(plot: Scatter) -> str:
    if not plot.left_out:
        return ""
    return f" {count_of(plot.left_out, 'example')} not drawn: a gradient of zero, or too many dots."


def _agreement(norms: GradientNorms) -> str:
    """In words, how far examples steep in the input are also steep in the parameters."""
    if len(norms.inputs) < 3:
        return ""
    value = _rank_correlation(norms.inputs.double(), norms.parameters.double())
    if value != value:
        return ""
    strength = next(
        words
        for least, words in (
            (0.8, "Examples steep in one are almost always steep in the other"),
            (0.5, "Examples steep in one are mostly steep in the other"),
            (0.2, "Examples steep in one are only somewhat steeper in the other"),
            (-0.2, "How steep an example is in one says next to nothing about the other"),
            (-1.0, "Examples steep in one are rather flat in the other"),
        )
        if value >= least
    )
    return f"{strength} (rank correlation {number(value, 2)})."


def _rank_correlation(a: Float[Tensor, " n"], b: Float[Tensor, " n"]) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (a, b)])
    if not (len(a.unique()) > 1 and len(b.unique()) > 1):
        return float("nan")
    return float(torch.corrcoef(ranks)[0, 1])


def _layers(bounds: GradientBounds, reason: str) -> list[Any]:
    """Each layer's part in the bound, and how tight the bound is there."""
    rows = layer_rows(bounds)
    reach = _reach(rows)
    largest = max(rows, key=lambda row: row.share)
    known = [row for row in rows if row.tightness == row.tightness]
    words = (
        f"Layer {largest.name} makes up the largest part of the sum. A layer counts for more when what "
        "enters it is large (‖h‖), its weights are small (‖W‖₂), and what enters it hardly reacts to the "
        "input (‖∇ₓh‖₂)."
    )
    if known:
        tightest = max(known, key=lambda row: row.tightness).name
        words += f" The bound is tightest in layer {tightest}."
    words += " At a tightness of 100 % the layer's gradient would be as small as the bound allows"
    words += "." if reach == 1 else f"; a full bar is {percent(reach)}."
    note = (
        "‖·‖₂ of a matrix is its spectral norm. Entering, reaction, gradient and share are means over the "
        "examples. Tightness is the layer's part of the bound over its squared gradient: a median, and the "
        "range of the middle 80 % of the examples. The layer next to the input is on top."
    )
    if any(row.kind == "convolution" for row in rows):
        note += (
            " A convolution has a term only where its patches are linearly independent (see the "
            "documentation of the bound); elsewhere it is zero."
        )
    if any(row.kind == "residual" for row in rows):
        note += (
            " For a residual block the reaction is that of the block's output, and the weights have no part "
            "in the term."
        )
    columns = [
        Column("layer", left=True, width=_WIDEST, code=True),
        Column("‖W‖₂", note="weights"),
        Column("‖h‖", note="entering"),
        Column("‖∇ₓh‖₂", note="its reaction"),
        Column("‖∇_θf‖", note="gradient", where="page"),
        Column("share", note="of the sum"),
        Column("tightness", tone="helpful"),
        Column("middle 80 %", note="of the examples", where="page"),
    ]
    table = Table(columns, [_layer(row, reach) for row in rows], shown=len(rows))
    heading = "Every layer's part in the bound"
    left_out = Words(
        f"{reason} The bound above and below is by the other layers alone.",
        lead="Not every layer is covered.",
    )
    return [
        *([left_out] if reason else []),
        Words(words, heading=heading, where="page"),
        table,
        Words(note, tone="muted", where="page"),
    ]


def _reach(rows: Sequence[BoundRow]) -> float:
    """The end of the axis of tightness: all of it, or less where every layer is far from that."""
    largest = max((row.tightness for row in rows if row.tightness == row.tightness), default=1.0)
    return next(end for end in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if largest <= end or end == 1.0)


def _layer(row: BoundRow, reach: float) -> list[str | Cell]:
    known = row.tightness == row.tightness
    return [
        Cell(row.name, note="" if row.kind == "dense" else row.kind),
        number(row.weight_norm, 3),
        number(row.activation_norm, 3),
        number(row.jacobian_norm, 3),
        number(row.gradient_norm, 3),
        percent(row.share),
        Cell(percent(row.tightness), bar=min(1.0, row.tightness / reach) if known else None),
        f"{percent(row.low)} to {percent(row.high)}" if known else "–",
    ]


def _parts(norms: GradientNorms) -> Table:
    """Where the gradient in the parameters lies, for networks without a bound."""
    total = norms.parameters.double().square()
    rows: list[list[str | Cell]] = []
    for name, values in norms.layers.items():
        share = quantiles(values.double().square() / total, 0.5)[0]
        rows.append([name, Cell(percent(share), bar=share if share == share else None)])
    return Table(
        [Column("layer", left=True, width=_WIDEST, code=True), Column("share of ‖∇_θ f‖²", tone="helpful")],
        rows,
        note="Share of each layer, median over the examples. The layer next to the input is on top.",
        heading="Where the gradient in the parameters lies",
    )


def _steepest(result: GeometryResult, steepest: list[int], heading: str) -> list[Any]:
    norms = result.norms
    words = (
        "On these examples the smallest change of the input moves f most: look here first for noisy, "
        "ambiguous or wrongly labelled examples, and for those that an attacker would pick. Beside each: the "
        "gradient norms in its input and in the parameters."
    )
    columns = [
        Column("train"),
        *(Column(name, left=True, width=_WIDEST) for name in ("label", "predicted")),
        *(Column(name) for name in ("‖∇ₓf‖", "‖∇_θf‖")),
    ]
    rows: list[list[str | Cell]] = []
    for k in steepest[:_LISTED]:
        card = result.card(k)
        predicted = Cell(card.predicted or "", "poor" if card.correct is False else "")
        sizes = (number(float(values[k]), 3) for values in (norms.inputs, norms.parameters))
        rows.append([str(result.numbers[k]), card.label or "", predicted, *sizes])
    return [
        Words(words, heading=heading, where="page"),
        Cards([_entry(norms, k, result.card(k)) for k in steepest], where="page"),
        Table(columns, rows, heading=heading, where="terminal"),
    ]


def _entry(norms: GradientNorms, k: int, card: Card) -> Shown:
    caption: list[tuple[str, Tone]] = [] if card.label is None else [(card.label, "strong")]
    caption += predicted_runs(card)
    lines = [
        ("in the input", number(float(norms.inputs[k]), 3)),
        ("in the parameters", number(float(norms.parameters[k]), 3)),
    ]
    largest = float(norms.inputs.max()) or 1.0
    return Shown(card, caption, lines, share=float(norms.inputs[k]) / largest, tone="harmful")
