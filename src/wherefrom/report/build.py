"""A section from a fitted influence function and its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from wherefrom.errors import InputError
from wherefrom.evaluation import Verification
from wherefrom.influence import (
    ANY,
    Attributor,
    Scores,
    SelfScores,
    resolve_measurement,
    trust_of,
)
from wherefrom.influence.identity import require_same
from wherefrom.influence.measurements import MEASUREMENTS, measured_now
from wherefrom.report.blocks import PageBlock
from wherefrom.report.describe import Describe, Describer
from wherefrom.report.page import write_report
from wherefrom.report.sections import ReportSection
from wherefrom.task import Examples


def build_section(
    attributor: Attributor,
    queries: Any,
    scores: Scores,
    *,
    name: str | None = None,
    verification: Verification | None = None,
    self_scores: SelfScores | None = None,
    blocks: Sequence[PageBlock] = (),
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
        attributor: gives training data, predictions and the verdict on the minimum.
        queries: as the user gave them.
        scores: of these queries.
        name: of the model; its class name when `None`.
        verification, self_scores, blocks, facts, top, review: as in `ReportSection`.
        describe_train, describe_query: from an index to a `Card`, a dict of its fields, or a text.
        class_names: names of the classes; the user's own labels where these are something else than class
            numbers.
        query_numbers: how the queries are numbered where they are a selection.

    Raises:
        InputError: scores, self-scores or a verification of another fit or of other queries.
    """
    objective = attributor.objective
    names = objective.class_names if class_names is None else class_names
    examples = objective.read(queries, role="queries")
    if len(examples) != len(scores):
        raise InputError(
            f"scores has {len(scores)} queries but {len(examples)} queries were given; they must be the same"
        )
    expected = {"fit": attributor.identity, "queries": examples.fingerprint()}
    require_same("scores", scores.identity, expected)
    if self_scores is not None:
        require_same("self_scores", self_scores.identity, expected)
    measured = measurement_now(attributor, examples, scores.measurement)
    cards = Describer(objective, attributor.data.given, objective.examples, "train", describe_train, names)
    return ReportSection(
        name=name or type(objective.model).__name__,
        scores=scores,
        minimum=attributor.minimum,
        train_card=cards,
        query_card=Describer(
            objective,
            objective.given(queries, "queries"),
            examples,
            "query",
            describe_query,
            names,
            query_numbers,
            cards,
        ),
        coverage=attributor.covered,
        verification=verification,
        self_scores=self_scores,
        blocks=blocks,
        facts=facts,
        top=top,
        review=review,
        now=None if measured is None else measured.tolist(),
        range=objective.loss.range if scores.measurement == "loss" else ANY,
        not_ranked=""
        if attributor.has_self_scores
        else f"{attributor.method} has no scores of training examples for themselves (self-influence), so "
        "none are ranked.",
        trust=trust_of(
            attributor,
            converged=bool(scores.converged.all()),
            retraining=None if verification is None else verification.judgement().verdict,
        ),
    )


def write_page(
    attributor: Attributor,
    path: str | Path,
    queries: Any,
    scores: Scores,
    *,
    name: str | None = None,
    verification: Verification | None = None,
    self_scores: SelfScores | None = None,
    blocks: Sequence[PageBlock] = (),
    describe_train: Describe | None = None,
    describe_query: Describe | None = None,
    class_names: Sequence[str] | None = None,
    top: int = 5,
) -> Path:
    """Write one self-contained page about these scores and return its path; `write_report` takes the sections
    of several models.

    Args:
        attributor, queries, scores, name, verification, self_scores, blocks, describe_train, describe_query,
            class_names, top: as for `build_section`.
        path: of the page.

    Raises:
        InputError: scores, self-scores or a verification of another fit or of other queries.
        StoreError: the page cannot be written.
    """
    section = build_section(
        attributor,
        queries,
        scores,
        name=name,
        verification=verification,
        self_scores=self_scores,
        blocks=blocks,
        describe_train=describe_train,
        describe_query=describe_query,
        class_names=class_names,
        top=top,
    )
    return write_report(path, [section])


def measurement_now(attributor: Attributor, examples: Examples, name: str) -> Float[Tensor, " q"] | None:
    """The measurement of each query as it is; `None` for a function, which scores know by its name alone."""
    if name not in MEASUREMENTS:
        return None
    return measured_now(attributor.objective, examples, resolve_measurement(name, attributor.objective.loss))
