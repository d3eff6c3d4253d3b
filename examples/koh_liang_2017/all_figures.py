"""Run the experiments; write one self-contained page: figures, and numbers beside the paper's.

An experiment that fails is shown on the page with its error, and the others run all the same; the exit status
then is 1.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jinja2
from data_files import DataError
from experiment import Row, parser, say

from wherefrom.store import write_atomically

TEMPLATE = Path(__file__).with_name("page.html.jinja")
# In the order of the page: the names of modules that offer what `Experiment` says.
EXPERIMENTS = (
    "figure1",
    "figure2",
    "figure2_cnn",
    "smooth_hinge",
    "figure4",
    "figure5",
    "figure6",
    "domain_mismatch",
)


class Experiment(Protocol):
    """What a module of this folder offers to be one of the page's experiments.

    Its name is the name of its files; the first line of its docstring is the title, the paragraphs after it
    the caption.
    """

    __name__: str
    __doc__: str | None

    def command(self) -> argparse.ArgumentParser:
        """Its options: `experiment.parser` and its own, all with defaults."""

    def experiment_from(self, options: argparse.Namespace) -> dict[str, Any]:
        """Runs it; writes `<name>.png`, `.svg`, `.json` into `options.out`; returns what the JSON holds.

        Raises `DataError` where its data are absent.
        """

    def comparison(self, result: dict[str, Any]) -> list[Row]:
        """Rows of the table, of what `experiment_from` returned (or of the JSON file)."""


@dataclass(frozen=True)
class Outcome:
    """One experiment on the page: its numbers and rows, or the error it ended with."""

    name: str
    title: str
    caption: str = ""
    result: dict[str, Any] | None = None
    rows: list[Row] = field(default_factory=list)
    error: str = ""

    def numbers(self) -> str:
        """All numbers, as indented JSON."""
        return json.dumps(self.result, indent=2)

    def image(self, folder: Path) -> str:
        """The figure as base64 text."""
        return base64.b64encode((folder / f"{self.name}.png").read_bytes()).decode("ascii")


def outcome(name: str, arguments: Sequence[str], kept: dict[str, Any] | None = None) -> Outcome:
    """Run the experiment `name`, or take the result that is `kept`; an error becomes the outcome."""
    title, caption = name, ""
    try:
        module: Experiment = importlib.import_module(name)
        title, *paragraphs = (module.__doc__ or name).strip().split("\n\n")
        caption = "\n\n".join(" ".join(text.split()) for text in paragraphs).replace("`", "")
        result = kept
        if result is None:
            result = module.experiment_from(module.command().parse_args(arguments))
        return Outcome(name, title, caption, result, module.comparison(result))
    except DataError as error:
        return Outcome(name, title, caption, error=str(error))
    # Whatever it is, the other experiments are not lost for it; it is on the page and in the exit status.
    except Exception as error:
        traceback.print_exc()
        return Outcome(name, title, caption, error=f"{type(error).__name__}: {error}")


def earlier(name: str, folder: Path, *, quick: bool) -> dict[str, Any] | None:
    """The result of an earlier run of the same kind in `folder`, where there is one."""
    path = folder / f"{name}.json"
    if not path.is_file() or not (folder / f"{name}.png").is_file():
        return None
    result = json.loads(path.read_text(encoding="utf-8"))
    return result if result.get("quick") is quick else None


def page(outcomes: Sequence[Outcome], folder: Path, *, quick: bool = False) -> str:
    """The page as HTML, images embedded: it needs no other file and no network."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    images = {one.name: one.image(folder) for one in outcomes if one.result is not None}
    return template.render(outcomes=outcomes, images=images, quick=quick)


def command() -> argparse.ArgumentParser:
    """The options of every experiment, and which of them to run."""
    result = parser(__doc__ or "")
    result.add_argument(
        "--only", nargs="+", choices=EXPERIMENTS, metavar="NAME", help=f"some of {', '.join(EXPERIMENTS)}"
    )
    result.add_argument(
        "--keep", action="store_true", help="do not run again what an earlier run has left in --out"
    )
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    options = command().parse_args(argv)
    arguments = ["--out", str(options.out)]
    if options.data is not None:
        arguments += ["--data", str(options.data)]
    if options.quick:
        arguments.append("--quick")
    outcomes = []
    for name in options.only or EXPERIMENTS:
        kept = earlier(name, options.out, quick=options.quick) if options.keep else None
        say(f"== {name}" + (" (kept)" if kept else ""))
        started = time.perf_counter()
        outcomes.append(outcome(name, arguments, kept))
        say(f"== {name}: {outcomes[-1].error or f'{time.perf_counter() - started:.0f} s'}")
    results = {one.name: one.result if one.result is not None else {"error": one.error} for one in outcomes}
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "figures.json", json.dumps(results, indent=2) + "\n")
    write_atomically(options.out / "index.html", page(outcomes, options.out, quick=options.quick))
    if options.json:
        print(json.dumps(results, indent=2))
    else:
        for one in outcomes:
            for row in one.rows:
                print(f"{row.figure:<8} {row.what}\n         here: {row.here}   paper: {row.paper or '–'}")
            if one.error:
                print(f"{one.name} failed: {one.error}")
        print(f"written: {options.out / 'index.html'}")
    return int(any(one.error for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
