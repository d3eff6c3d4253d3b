"""The panel about gradients in the input and in the parameters: how they bound one another, layer by layer,
and the examples on which the model is steepest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from wherefrom.arguments import whole
from wherefrom.errors import InputError
from wherefrom.report.card_view import card_view
from wherefrom.report.cards import Card
from wherefrom.report.log_charts import LogScatter, log_scatter
from wherefrom.report.numbers import number
from wherefrom.report.panels import Panel
from wherefrom.studies.geometry.panel_layers import LayerRow, layer_rows, quantiles, violations
from wherefrom.studies.geometry.panel_words import (
    bound_verdict,
    complexity_verdict,
    share_text,
    steepness_verdict,
    what_it_is,
)

if TYPE_CHECKING:
    from wherefrom.linalg import Estimate
    from wherefrom.studies.geometry import GradientBounds, GradientNorms

TITLE = "How steep in the input, how steep in the parameters"

# Gradients that differ by less, relative to the largest, are the same.
_SAME = 1e-5


def geometry_panel(
    norms: GradientNorms,
    card: Callable[[int], Card],
    *,
    bounds: GradientBounds | None,
    reason: str = "",
    complexity: Estimate,
    scalar: str = "margin",
    numbers: Sequence[int] | None = None,
    top: int = 8,
) -> Panel:
    """Both gradient norms of every example, the bound between them where the network has one, and cards of
    the `top` examples of largest input gradient.

    Args:
        norms: of the examples looked at.
        card: from a position among these examples to what people see of it.
        bounds: both sides of the inequality for the same examples; `None` where it does not apply.
        reason: why it does not, in plain words; with bounds, why they leave some layers out.
        complexity: geometric complexity over the same examples.
        scalar: name of the scalar `f` whose gradients these are.
        numbers: how the examples are numbered in the data; `0 … n − 1` by default.
        top: examples shown.

    Raises:
        InputError: `top` below 1, neither bounds nor a reason, or bounds of other examples.
    """
    n = len(norms.inputs)
    whole("top", top, 1)
    if bounds is None and not reason:
        raise InputError("bounds is None and reason is empty: expected the reason why there is no bound")
    if bounds is not None and len(bounds.left) != n:
        raise InputError(
            f"bounds are of {len(bounds.left)} examples and norms of {n}; expected the same examples"
        )
    numbers = range(n) if numbers is None else numbers
    same = tied(norms, top)
    steepest = [] if same else steepest_first(norms)[:top]
    rows = [] if bounds is None else layer_rows(bounds)
    reach = _reach(rows)
    return Panel.from_template(
        TITLE,
        "geometry.html.j2",
        n=f"{n:,}",
        scalar=what_it_is(scalar),
        verdicts=[
            bound_verdict(bounds, reason),
            steepness_verdict(norms, scalar),
            complexity_verdict(complexity),
        ],
        bound=None if bounds is None else _bound_view(bounds, numbers),
        reason=reason,
        layers=[_layer_view(row, reach) for row in rows],
        scale=[share_text(reach * part) for part in (0.0, 0.5, 1.0)],
        tightest=_tightest(rows),
        convolutions=any(row.kind == "convolution" for row in rows),
        residuals=any(row.kind == "residual" for row in rows),
        largest_share=max(rows, key=lambda row: row.share) if rows else None,
        parts=_parts(norms) if bounds is None else [],
        norms=_norms_chart(norms, numbers, steepest),
        agreement=_agreement(norms),
        tied=same,
        steepest=[_entry(norms, k, card(k)) for k in steepest],
    )


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


def _bound_view(bounds: GradientBounds, numbers: Sequence[int]) -> dict[str, Any]:
    left, right = bounds.left.double().cpu(), bounds.right.double().cpu()
    titles = [
        f"train {numbers[k]}: bound from the input {number(a, 3)}, gradient in the parameters {number(b, 3)}"
        for k, (a, b) in enumerate(zip(left.tolist(), right.tolist()))
    ]
    return {
        "plot": log_scatter(right.numpy(), left.numpy(), titles, common=True),
        "above": violations(bounds),
        "typical": share_text(quantiles(bounds.ratio, 0.5)[0]),
    }


def _tightest(rows: Sequence[LayerRow]) -> str | None:
    known = [row for row in rows if row.tightness == row.tightness]
    return max(known, key=lambda row: row.tightness).name if known else None


def _reach(rows: Sequence[LayerRow]) -> float:
    """The end of the axis of tightness: all of it, or less where every layer is far from that."""
    largest = max((row.high for row in rows if row.high == row.high), default=1.0)
    return next(end for end in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if largest <= end or end == 1.0)


def _layer_view(row: LayerRow, reach: float) -> dict[str, Any]:
    known = row.tightness == row.tightness
    percent = 100 / reach
    return {
        "name": row.name,
        "kind": "" if row.kind == "dense" else row.kind,
        "weight": number(row.weight_norm, 3),
        "activation": number(row.activation_norm, 3),
        "jacobian": number(row.jacobian_norm, 3),
        "gradient": number(row.gradient_norm, 3),
        "share": share_text(row.share),
        "tightness": share_text(row.tightness),
        "fill": round(percent * row.tightness, 2) if known else 0,
        "low": round(percent * row.low, 2) if known else 0,
        "span": round(percent * (row.high - row.low), 2) if known else 0,
        "range": f"{share_text(row.low)} to {share_text(row.high)}" if known else "",
    }


def _parts(norms: GradientNorms) -> list[dict[str, Any]]:
    """Where the gradient in the parameters lies, for networks without a bound."""
    total = norms.parameters.double().square()
    views = []
    for name, values in norms.layers.items():
        share = quantiles(values.double().square() / total, 0.5)[0]
        known = share == share
        views.append(
            {"name": name, "share": share_text(share), "fill": round(100 * share, 2) if known else 0}
        )
    return views


def _norms_chart(norms: GradientNorms, numbers: Sequence[int], steepest: Sequence[int]) -> LogScatter | None:
    inputs, parameters = norms.inputs.double().cpu(), norms.parameters.double().cpu()
    titles = [
        f"train {numbers[k]}: in the input {number(a, 3)}, in the parameters {number(b, 3)}"
        for k, (a, b) in enumerate(zip(inputs.tolist(), parameters.tolist()))
    ]
    return log_scatter(parameters.numpy(), inputs.numpy(), titles, marked=steepest)


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


def _entry(norms: GradientNorms, k: int, card: Card) -> dict[str, Any]:
    largest = float(norms.inputs.max()) or 1.0
    return {
        "card": card_view(card),
        "input": number(float(norms.inputs[k]), 3),
        "parameters": number(float(norms.parameters[k]), 3),
        "share": round(100 * float(norms.inputs[k]) / largest, 1),
    }
