"""The removal curve of `wherefrom change --grow`: its sizes as they are written, and its table."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from wherefrom.errors import InputError
from wherefrom.interventions import RemovalCurve
from wherefrom.percentages import percentage
from wherefrom.report.numbers import number


def parse_sizes(text: str | None, removed: int) -> list[int]:
    """Sizes of growing groups: numbers with commas between, each at most the number of removed examples.

    Raises:
        InputError: no such list, or nothing that is removed.
    """
    if text is None:
        return []
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise InputError(f"--grow {text!r}: expected numbers such as 1,5,20") from error
    if removed == 0:
        raise InputError(f"--grow {text}: expected --remove with the ranking whose first so many are removed")
    if sizes[0] < 1 or sizes[-1] > removed:
        raise InputError(
            f"--grow {text}: expected sizes from 1 to {removed}, the number of examples that --remove names"
        )
    return sizes


def growth_table(curve: RemovalCurve) -> Table:
    """Mean change over the queries for each size, readable at 80 columns."""
    found = curve.to_pandas()
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim")
    for name in ("removed", "first order", "predicted", *(("retrained",) if "actual" in found else ())):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("one more step", justify="right", no_wrap=True)
    for at, change in enumerate(curve.changes):
        row = found.iloc[at]
        values = [row["first_order"], row["predicted"], *([row["actual"]] if "actual" in found else [])]
        known = change.mean_resolution().resolved
        cells = [
            Text(
                number(float(value), 3, sign=True) + ("" if known or k == 2 else "?"),
                style="" if known or k == 2 else "dim",
            )
            for k, value in enumerate(values)
        ]
        step = Text(percentage(change.left_over), style="dim")
        table.add_row(Text(f"{curve.sizes[at]:,}"), *cells, step)
    return table
