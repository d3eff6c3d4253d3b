"""What an audit leaves behind beside the page: tables, all scores (safetensors), a summary (JSON)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wherefrom.influence import save_scores
from wherefrom.studies.study import Rows, table_of


def tables(result: Any) -> dict[str, tuple[Sequence[str], Rows]]:
    """`scores.csv` of the examples shown and, if computed, `self_influence.csv`, `verification.csv`."""
    numbers = result.query_numbers
    made: dict[str, tuple[Sequence[str], Rows]] = {"scores": table_of(_score_rows(result))}
    own = result.page.self_scores
    if own is not None:
        ranked = enumerate(own.top(len(own)), 1)
        made["self_influence"] = (
            ("rank", "train", "label", "self_influence"),
            ((rank, i, result.page.train_card(i).label, value) for rank, (i, value) in ranked),
        )
    check = result.page.verification
    if check is not None:
        made["verification"] = (
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
    return made


def save(result: Any, folder: Path) -> None:
    """Write `scores.safetensors`.

    Raises:
        StoreError: the file cannot be written.
    """
    save_scores(result.page.scores, folder / "scores.safetensors")
    result.embedded.save(folder)


def summary(result: Any) -> dict[str, Any]:
    """The headline numbers, as JSON values."""
    page = result.page
    scores = page.scores
    return {
        "n": scores.n_train,
        "queries": list(result.query_numbers),
        "minimum": None if page.minimum is None else page.minimum.as_dict(),
        "scores": {
            "converged": bool(scores.converged.all()),
            "worst_relative_residual": float(scores.relative_residual.max()),
            "bound_proven": scores.bound_proven,
            "distance": scores.distance,
            "estimand": scores.estimand,
        },
        "plan": scores.plan,
        "coverage": [asdict(row) for row in page.coverage],
        "verification": None
        if page.verification is None
        else {**page.verification.summary(), "words": page.verification.words},
        "review": [] if page.self_scores is None else [i for i, _ in page.self_scores.top(page.review)],
        "poisoning": result.embedded.summaries.get("attack"),
        "settings": dict(scores.settings),
    }


def _score_rows(result: Any) -> Iterable[dict[str, Any]]:
    section = result.page
    for q, number in enumerate(result.query_numbers):
        card = section.query_card(q)
        for ranking in (section.scores.helpful(section.top, q), section.scores.harmful(section.top, q)):
            for rank, row in enumerate(ranking, 1):
                found = section.removal(q, row)
                yield {
                    "query": number,
                    "query_label": card.label,
                    "predicted": card.predicted,
                    "kind": ranking.kind,
                    "rank": rank,
                    "train": row["train"],
                    "train_label": section.train_card(row["train"]).label,
                    "score": row["score"],
                    "error": row["error"],
                    "bound": row["bound"],
                    "predicted_change": row["predicted_change"] if section.sized else None,
                    "resolved": found.resolved,
                    "reason": found.reason,
                }
