"""What an audit leaves behind beside the page: tables (CSV), all scores (safetensors), a summary (JSON)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wherefrom.influence import save_scores
from wherefrom.report.files import write_table
from wherefrom.store import write_atomically
from wherefrom.store.json_values import dump_json

if TYPE_CHECKING:
    from wherefrom.cli.audit import AuditResult


def write_results(result: AuditResult) -> None:
    """Write `scores.csv`, `scores.safetensors` and, if computed, `self_influence.csv`, `verification.csv`.

    Raises:
        StoreError: a file cannot be written.
    """
    folder, numbers = result.folder, result.query_numbers
    write_table(
        folder / "scores.csv",
        (
            "query",
            "query_label",
            "predicted",
            "kind",
            "rank",
            "train",
            "train_label",
            "score",
            "error",
            "bound",
            "predicted_change",
            "resolved",
            "reason",
        ),
        _score_rows(result),
    )
    save_scores(result.scores, folder / "scores.safetensors")
    own = result.self_scores
    if own is not None:
        ranked = enumerate(own.top(len(own)), 1)
        write_table(
            folder / "self_influence.csv",
            ("rank", "train", "label", "self_influence"),
            ((rank, i, result.section.train_card(i).label, value) for rank, (i, value) in ranked),
        )
    check = result.verification
    if check is not None:
        write_table(
            folder / "verification.csv",
            ("removed", "query", "predicted", "actual", "noise"),
            (
                (
                    int(check.removed[r]),
                    numbers[q],
                    float(check.predicted[r, q]),
                    float(check.actual[r, q]),
                    float(check.noise[r, q]),
                )
                for r in range(len(check.removed))
                for q in range(len(numbers))
            ),
        )


def write_summary(path: Path, results: Sequence[AuditResult]) -> None:
    """Write the headline numbers of all tasks.

    Raises:
        StoreError: the file cannot be written.
    """
    summary = {"models": [_summary(result, path.parent) for result in results]}
    write_atomically(path, dump_json(summary, indent=2) + "\n")


def _summary(result: AuditResult, base: Path) -> dict[str, Any]:
    scores = result.scores
    settings = dict(scores.settings)
    plan = settings.pop("plan", None)
    settings.pop("distance", None)
    return {
        "name": result.task.name,
        "facts": dict(result.task.facts),
        "n": scores.n_train,
        "queries": result.query_numbers,
        "minimum": None if result.section.minimum is None else result.section.minimum.as_dict(),
        "scores": {
            "converged": bool(scores.converged.all()),
            "worst_relative_residual": float(scores.relative_residual.max()),
            "bound_proven": scores.bound_proven,
            "distance": scores.distance,
        },
        "plan": plan,
        "coverage": [asdict(row) for row in result.section.coverage],
        "verification": None
        if result.verification is None
        else {**result.verification.summary(), "words": result.verification.words},
        "poisoning": None if result.attack is None else result.attack.found.summary(),
        "review": []
        if result.self_scores is None
        else [i for i, _ in result.self_scores.top(result.section.review)],
        "settings": settings,
        "seconds": round(result.seconds, 3),
        "folder": result.folder.relative_to(base).as_posix(),
    }


def _score_rows(result: AuditResult) -> Iterable[tuple[Any, ...]]:
    section = result.section
    for q, number in enumerate(result.query_numbers):
        card = section.query_card(q)
        for ranking in (result.scores.helpful(section.top, q), result.scores.harmful(section.top, q)):
            for rank, row in enumerate(ranking, 1):
                yield (
                    number,
                    card.label,
                    card.predicted,
                    ranking.kind,
                    rank,
                    row["train"],
                    section.train_card(row["train"]).label,
                    row["score"],
                    row["error"],
                    row["bound"],
                    row["predicted_change"],
                    section.removal(q, row).resolved,
                    section.removal(q, row).reason,
                )
