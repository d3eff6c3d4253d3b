"""A section from a fitted influence function and its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from whence.errors import InputError
from whence.evaluation import Verification
from whence.influence import FittedInfluence, Scores, SelfScores, layer_coverage
from whence.report.describe import Describe, Describer
from whence.report.panels import Panel
from whence.report.sections import ReportSection
from whence.solvers import PreparedBlocks


def build_section(
    fitted: FittedInfluence,
    train: Any,
    queries: Any,
    scores: Scores,
    *,
    name: str | None = None,
    verification: Verification | None = None,
    self_scores: SelfScores | None = None,
    panels: Sequence[Panel] = (),
    describe_train: Describe | None = None,
    describe_query: Describe | None = None,
    class_names: Sequence[str] | None = None,
    query_numbers: Sequence[int] | None = None,
    facts: Sequence[tuple[str, str]] = (),
    top: int = 5,
    review: int = 16,
) -> ReportSection:
    """A `ReportSection` whose cards are guessed from the data, or made by the user's functions.

    Args:
        fitted: gives targets, predictions and the verdict on the minimum.
        train, queries: the data as the user gave it.
        scores: of these queries.
        name: of the model; its class name when `None`.
        verification, self_scores, panels, facts, top, review: as in `ReportSection`.
        describe_train, describe_query: from an index to a `Card`, a dict of its fields, or a text.
        class_names: names of the classes.
        query_numbers: how the queries are numbered where they are a selection.

    Raises:
        InputError: scores of other queries.
    """
    objective = fitted.objective
    examples = objective.read(queries, role="queries")
    if len(examples) != len(scores):
        raise InputError(
            f"scores has {len(scores)} queries but {len(examples)} queries were given; they must be the same"
        )
    return ReportSection(
        name=name or type(objective.model).__name__,
        scores=scores,
        minimum=fitted.minimum,
        train_card=Describer(objective, train, objective.examples, "train", describe_train, class_names),
        query_card=Describer(
            objective, queries, examples, "query", describe_query, class_names, query_numbers
        ),
        coverage=layer_coverage(fitted) if isinstance(fitted.prepared, PreparedBlocks) else (),
        verification=verification,
        self_scores=self_scores,
        panels=panels,
        facts=facts,
        top=top,
        review=review,
    )
