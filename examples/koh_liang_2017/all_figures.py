"""Run the three experiments; write one self-contained page: figures, and numbers beside the paper's."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figure1
import figure2
import jinja2
import smooth_hinge
from experiment import parser, run, say

TEMPLATE = Path(__file__).with_name("page.html.jinja")


def comparison(results: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Rows of the table: what was measured, the published number, ours."""
    two, three = results["figure2"], results["smooth_hinge"]
    rows = [
        {
            "figure": "2",
            "what": f"predicted against actual, {label}: Pearson (Spearman)",
            "paper": "on the diagonal; replication 0.998 (0.989)" if name == "exact" else "on the diagonal",
            "here": "{pearson:.5f} ({spearman:.5f}), slope {slope:.3f}".format(**two[name]),
        }
        for name, label in (("exact", "exact"), ("cg", "CG"), ("lissa", "LiSSA"))
    ]
    rows += [
        {
            "figure": "3",
            "what": f"predicted against actual, t = {t:g}: Pearson",
            "paper": f"{paper:.3f}",
            "here": f"{three[f't={t:g}']['pearson']:.3f}",
        }
        for t, paper in smooth_hinge.PAPER.items()
    ]
    for name in (f"{a}-vs-{b}" for a, b in figure1.PAIRS):
        one = results["figure1"][name]
        rows += [
            {
                "figure": "1",
                "what": f"{name}: scale without the train loss, relative to influence",
                "paper": "too large",
                "here": f"{one['without_train_loss']['scale_ratio']:.1f}×",
            },
            {
                "figure": "1",
                "what": f"{name}: same-label images that look helpful without the Hessian (with it)",
                "paper": "all",
                "here": f"{one['without_hessian']['helpful_share_of_same_label']:.0%} "
                f"({one['influence']['helpful_share_of_same_label']:.0%})",
            },
        ]
    return sorted(rows, key=lambda row: row["figure"])


def page(results: dict[str, dict[str, Any]], folder: Path, *, quick: bool = False) -> str:
    """The page as HTML, images embedded: it needs no other file and no network."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    images = {
        name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode("ascii") for name in results
    }
    numbers = {name: json.dumps(result, indent=2) for name, result in results.items()}
    captions = {
        "figure1": figure1.__doc__ or "",
        "figure2": figure2.__doc__ or "",
        "smooth_hinge": smooth_hinge.__doc__ or "",
    }
    return template.render(
        rows=comparison(results), images=images, numbers=numbers, captions=captions, quick=quick
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Command line."""
    options = parser(__doc__ or "").parse_args(argv)
    shared = ["--out", str(options.out)]
    if options.data is not None:
        shared += ["--data", str(options.data)]
    if options.quick:
        shared.append("--quick")
    results: dict[str, dict[str, Any]] = {}
    for module in (figure1, figure2, smooth_hinge):
        say(f"== {module.__name__}")
        results[module.__name__] = module.experiment_from(module.command().parse_args(shared))
    (options.out / "figures.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (options.out / "index.html").write_text(page(results, options.out, quick=options.quick), encoding="utf-8")
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for row in comparison(results):
            print("Figure {figure}  {what}\n          here: {here}   paper: {paper}".format(**row))
        print(f"written: {options.out / 'index.html'}")
    return results


if __name__ == "__main__":
    run(main)
