"""One way to run a study: fit with the run directory, ask, write files and page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wherefrom.influence import Attributor, Trust
from wherefrom.report import Section, View, write_view
from wherefrom.report.files import slug, write_table
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json
from wherefrom.studies.kept_trust import KeptTrust
from wherefrom.studies.study import Result, Say, Study, quiet
from wherefrom.studies.task import Task

RUN = "run"


@dataclass(frozen=True)
class Answer:
    """What a study found for a task, and where it was written.

    Attributes:
        task, result: what was asked about, and the answer.
        section: as it was shown, with the trust of the run.
        folder: of the files.
    """

    task: Task
    result: Result
    section: Section
    folder: Path


def run_study(
    study: Study,
    tasks: Task | Sequence[Task],
    out: str | Path,
    *,
    solver: str | None = None,
    progress: bool = True,
    keep: bool = True,
    say: Say = quiet,
) -> list[Answer]:
    """Ask a study about one task or several, and write under `out` the page `<study>.html`, the summary
    `<study>.json` and its tables.

    Everything that takes long (factors, scores, retrainings, the verdict of retraining) is kept in `out/run`,
    for this study when it was killed and for every other one of the same task: nothing is computed twice.

    Args:
        study: the question with its options.
        tasks: with several, each has a folder of its own beside the common page and summary.
        out: directory.
        solver: by name, instead of the tasks' own.
        progress: show progress bars.
        keep: whether anything is kept in `out/run`.
        say: called with each stage before it begins.

    Raises:
        WherefromError: whatever is wrong with a task; what was kept stays.
    """
    out = Path(out)
    listed = [tasks] if isinstance(tasks, Task) else list(tasks)
    answers, summaries = [], []
    for task in listed:
        folder = out if len(listed) == 1 else out / slug(task.name)
        started = time.perf_counter()
        answer = _ask(study, task, folder, solver, progress, keep, say)
        answers.append(answer)
        summaries.append(_summary(answer, out, time.perf_counter() - started))
    say("writing the page")
    view = View(study.question, study.lead, [answer.section for answer in answers])
    write_view(page_of(study, out), view)
    summary = summaries[0] if isinstance(tasks, Task) else {"models": summaries}
    write_atomically(out / f"{study.name}.json", dump_json(summary, indent=2) + "\n")
    return answers


def page_of(study: Study, out: str | Path) -> Path:
    """Where its page is written."""
    return Path(out) / f"{study.name}.html"


def _ask(
    study: Study, task: Task, folder: Path, solver: str | None, progress: bool, keep: bool, say: Say
) -> Answer:
    study.check(task)
    fits = study.needs_fit and task.attributor is None
    say(f"{task.name}: checking model and data{', fitting the curvature' if fits else ''}")
    run_dir = folder / RUN if keep and study.needs_fit else None
    attributor = study.prepared(task).attributor_of(
        solver=solver, progress=progress, run_dir=run_dir, fitted=study.needs_fit
    )
    result = study.run(attributor, task, say)
    result = result.with_trust(_trust(study, result.trust, attributor, run_dir))
    for name, (header, rows) in result.tables().items():
        write_table(folder / f"{name}.csv", header, rows)
    result.save(folder)
    return Answer(task, result, result.section(), folder)


def _trust(study: Study, found: Trust, attributor: Attributor, run_dir: Path | None) -> Trust:
    """With the verdict of retraining that any study of this run has measured."""
    if run_dir is None:
        return found
    kept = KeptTrust(run_dir, attributor)
    if found.retraining is not None:
        if study.verifies:
            kept.write(found.retraining)
        return found
    return kept.added_to(found)


def _summary(answer: Answer, out: Path, seconds: float) -> dict[str, Any]:
    return {
        "name": answer.task.name,
        "facts": dict(answer.task.facts),
        "trust": answer.section.trust.as_dict(),
        **answer.result.summary(),
        "seconds": round(seconds, 3),
        "folder": answer.folder.relative_to(out).as_posix(),
    }
