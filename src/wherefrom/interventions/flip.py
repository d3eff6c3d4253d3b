"""*What would flip this prediction?* The smallest set of training examples whose removal is predicted to."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wherefrom.arguments import choice, whole
from wherefrom.errors import InputError, UnsupportedError
from wherefrom.influence import Fit, compute_scores
from wherefrom.interventions.decision import Decision, decision_scores, resolve_decision
from wherefrom.interventions.edited_objective import Reduction
from wherefrom.interventions.flip_search import Found, class_codes, greedy, iterated_newton, largest_set
from wherefrom.interventions.flip_sets import FlipSet
from wherefrom.interventions.flips import Flips
from wherefrom.interventions.linear_refits import LinearRefits, why_not_linear
from wherefrom.task import Examples, as_given, check_examples, class_numbers

FlipOrder = Literal["auto", "first", "newton"]


def find_flips(
    fitted: Fit,
    queries: Any,
    *,
    max_size: int | None = None,
    order: FlipOrder = "auto",
    reduction: Reduction = "mean",
    rivals: int = 3,
) -> Flips:
    """The smallest sets of training examples whose removal is predicted to flip each query's prediction.

    What is traced is the decision margin: the logit of the predicted class minus that of a rival, or the
    score times its sign. Each rival is tried, and the smallest set taken.

    * `"first"`: rank by the score of the margin, take the smallest prefix whose summed change ends below zero
      (Yang et al. 2023, "How many and which training points would need to be removed to flip this
      prediction?", Algorithm 1).
    * `"newton"`: refit after each candidate set with the curvature that is left, rank anew from there, and
      close in on the smallest prefix that flips; linear models with a convex loss only (see
      `iterated_newton`). All queries go together: a refit costs a few matrix products.
    * `"auto"`: `"newton"` where it exists.

    Finding the smallest set of all is a combinatorial problem; these are upper bounds of it. No set takes the
    last example of a class.

    Args:
        fitted: the fitted influence function.
        queries: whose predictions are asked about; their targets do not matter.
        max_size: largest set looked for; a tenth of the training set when `None`.
        order: of the prediction.
        reduction: `"mean"` for a recipe that averages over what is left, `"sum"` for one that keeps the
            weights `1/n`.
        rivals: classes tried for each query, the closest first.

    Raises:
        InputError: `max_size` or `rivals` out of range, an unknown `order` or `reduction`, bad queries.
        UnsupportedError: a loss without classes, several predictions per query, or `"newton"` for a model
            that is not linear.
    """
    _check(fitted, max_size, order, reduction, rivals)
    objective = fitted.objective
    objective.check_unchanged(data=True)  # the sets are of what was given
    decision = resolve_decision(objective.loss)
    examples = objective.read(queries, role="queries")
    check_examples(objective, examples, progress=False)
    scores = decision_scores(fitted, examples, decision).cpu()
    reason = why_not_linear(fitted)
    if order == "newton" and reason:
        raise UnsupportedError(
            f"order='newton' refits a linear model, but {reason}. Use order='first', and confirm by "
            "retraining"
        )
    chosen = "newton" if order == "auto" and not reason else "first" if order == "auto" else order
    ranks = range(1, min(rivals, decision.rivals(scores.shape[1])) + 1)
    numbers = class_numbers(objective, objective.examples)
    labels = None if numbers is None else class_codes(numbers)
    most = largest_set(objective.n, labels, max_size)
    if most < 1:
        raise InputError("each class has one training example: none can be removed without losing its class")
    found = []
    refits = LinearRefits(fitted, reduction) if chosen == "newton" else None
    for rank in ranks:
        if refits is not None:
            found.append(_by_newton(refits, examples, scores, decision, rank, labels, most))
        else:
            single = compute_scores(fitted, queries, decision.measurement(rank)).values.double().cpu()
            directions = decision.directions(scores, rank)
            margins = (directions * scores).sum(1)
            rival = decision.rival_labels(directions)
            found.append(greedy(single, margins, rival, labels, most, reduction))
    sets = _smallest(found, scores, decision, most, objective.classes)
    return Flips(tuple(sets), objective.n, most, chosen, reduction, fitted, queries)


def _check(fitted: Fit, max_size: int | None, order: str, reduction: str, rivals: int) -> None:
    n = fitted.objective.n
    if n < 2:
        raise InputError("the training set has 1 example: without it nothing is left to train on")
    for name, value, most in (("max_size", max_size, n - 1), ("rivals", rivals, None)):
        if value is None and name == "max_size":
            continue
        words = f"a whole number from 1 to n − 1 = {most}" if most else "a whole number from 1 on"
        whole(name, value, 1, most, expected=words)
    choice("order", order, get_args(FlipOrder))
    choice("reduction", reduction, get_args(Reduction))


def _by_newton(
    refits: LinearRefits,
    examples: Examples,
    scores: Float[Tensor, "q c"],
    decision: Decision,
    rank: int,
    labels: Int[Tensor, " n"] | None,
    most: int,
) -> Found:
    """`iterated_newton` for all queries and one rival each, in blocks that fit the memory."""
    features = refits.read(examples)[0].double()
    fixed = scores.to(features.device) - features @ refits.start.T
    directions = decision.directions(scores, rank).to(features.device)
    predicted = decision.labels(scores)
    parts = [
        iterated_newton(
            refits,
            features[block],
            fixed[block],
            directions[block],
            predicted[block].to(features.device),
            decision,
            None if labels is None else labels.to(features.device),
            most,
        )
        for block in torch.arange(len(scores)).split(refits.sets_at_once())
    ]
    return Found(
        *(torch.cat([getattr(part, name) for part in parts]).cpu() for name in Found.__dataclass_fields__)
    )


def _smallest(
    found: list[Found],
    scores: Float[Tensor, "q c"],
    decision: Decision,
    most: int,
    classes: tuple[Any, ...] | None,
) -> list[FlipSet]:
    """Per query the smallest set over its rivals; where there is none, what comes closest."""
    predicted = decision.labels(scores)
    margins = decision.margins(scores, predicted)
    sets = []
    for q in range(len(scores)):

        def rank_key(r: int, q: int = q) -> tuple[int, float]:
            size = int(found[r].size[q])
            return (size or found[r].order.shape[1], float(found[r].after[q]))

        chosen = found[min(range(len(found)), key=rank_key)]
        firsts = [int(one.first[q]) for one in found if int(one.first[q])]
        sets.append(
            FlipSet(
                query=q,
                predicted=as_given(int(predicted[q]), classes),
                rival=as_given(int(chosen.became[q]), classes),
                ranking=tuple(chosen.order[q, :most].tolist()),
                size=int(chosen.size[q]) or None,
                first_size=min(firsts, default=None),
                margin=float(margins[q]),
                margin_after=float(chosen.after[q]),
                n=chosen.order.shape[1],
                settled=all(bool(one.settled[q]) for one in found),
                classes=classes,
            )
        )
    return sets
